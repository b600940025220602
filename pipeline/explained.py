"""What to tell the user of an error: a line and an exit code; of a bug nothing, its traceback is shown."""

import errno

from strata_sae.pipeline.errors import CheckpointError, ConfigError


def explained(error: Exception) -> tuple[str | None, int]:
    """What to tell the user, and the exit code: 1 failed, 2 bad input. No message for bugs and typer's own errors."""
    if isinstance(error, ConfigError):
        return str(error), 2
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        again = "free some and run the same command again: finished parts are kept"
        advice = {
            errno.ENOSPC: f"no space left; {again}",
            errno.EDQUOT: f"disk quota exceeded; {again}",
            errno.EFBIG: "larger than the file system, or this shell (ulimit -f), lets a file be; raise that limit, or "
            "choose another disk, and run the same command again: finished parts are kept",
            errno.EROFS: "the file system is read-only; choose another folder (store.path or STRATA_DATA)",
            errno.EACCES: "permission denied; change it or choose another folder (store.path or STRATA_DATA)",
        }.get(error.errno or 0)
        return (f"{error.filename or 'writing'}: {advice}" if advice else str(error)), 1
    from strata_sae.stores.errors import StoreError

    return (str(error) if isinstance(error, StoreError | CheckpointError) else _foreign(error)), 1


def _foreign(error: Exception) -> str | None:
    """What to say of exceptions that a machine or a file causes inside a library; None for any other: it is a bug."""
    words = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in words for w in _NO_MEMORY)):
        return (
            f"out of memory{f' ({words})' if words else ''}; lower training.batch_size, training.window_bytes, d_sae "
            "or model.batch_tokens, and run the same command again: finished parts are kept"
        )
    if isinstance(error, ModuleNotFoundError) and (extra := _EXTRAS.get((error.name or "").partition(".")[0])):
        return f"{error.name} is not installed: pip install 'strata-sae[{extra}]'"
    if isinstance(error, RecursionError):
        return f"an input is nested too deeply to be read ({words}); --debug shows where"
    if type(error).__name__ == "ValidationError" and type(error).__module__.startswith("pydantic"):
        return f"a file does not hold what it should: {' '.join(str(error).split())[:500]}; --debug shows where"
    return None


_EXTRAS = {
    **dict.fromkeys(("transformers", "datasets", "tokenizers", "pyarrow"), "extract"),
    **dict.fromkeys(("gguf", "accelerate"), "demo"),
    **dict.fromkeys(("starlette", "uvicorn"), "explore"),
    **dict.fromkeys(("obstore", "huggingface_hub"), "remote"),
    **{name: name for name in ("tensorboard", "wandb", "mlflow", "ray")},
}
"""Package -> the extra that installs it."""
_NO_MEMORY = (
    "not enough memory",
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Storage size calculation overflowed",
)
"""In PyTorch's words; all of them are RuntimeErrors, most of them plain ones."""
