"""The command line: its commands and global options, and what it tells of an error or of a machine it cannot run on."""

import errno
import io
import logging
import os
import sys
import traceback
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from strata_sae.pipeline.commands.evaluate import evaluate
from strata_sae.pipeline.commands.extract import extract, plan
from strata_sae.pipeline.commands.init import init
from strata_sae.pipeline.commands.report import report
from strata_sae.pipeline.commands.run import run
from strata_sae.pipeline.commands.runs import runs_app
from strata_sae.pipeline.commands.schema import schema
from strata_sae.pipeline.commands.sigbus_guard import supervise
from strata_sae.pipeline.commands.store import store_app
from strata_sae.pipeline.commands.toy import toy
from strata_sae.pipeline.commands.train import train
from strata_sae.pipeline.errors import CheckpointError, ConfigError


class Guarded(TyperGroup):
    """Turns the errors that a user can cause into lines on stderr and an exit code; others keep their traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The options of all commands are taken after the command, too."""
        return super().parse_args(ctx, global_options_first(args))

    def invoke(self, ctx: Any) -> Any:
        """Run a command. Leaves the process with exit code 1, 2 or 130 where it fails for a reason that is told."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("\ninterrupted; the same command goes on from what is finished", err=True)
            sys.exit(130)
        except Exception as error:
            message, code = explained(error)
            if message is None:
                raise
            if ctx.params["debug"]:
                traceback.print_exc()
            typer.echo(message, err=True)
            sys.exit(code)


def global_options_first(args: list[str]) -> list[str]:
    """The arguments with `--quiet`, `--log-level LEVEL` and `--debug` before the command; what follows `--` stays."""
    here, end = (args[: args.index("--")], args[args.index("--") :]) if "--" in args else (args, [])
    first: list[str] = []
    rest: list[str] = []
    words = iter(here)
    for word in words:
        word = f"--log-level={next(words, '')}" if word == "--log-level" else word
        moved = word in ("--quiet", "--debug") or word.startswith("--log-level=")
        (first if moved else rest).append(word)
    return [*first, *rest, *end]


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
    **dict.fromkeys(("obstore", "huggingface_hub"), "remote"),
}
"""Package -> the extra that installs it."""
_NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "Storage size calculation overflowed")
"""In PyTorch's words; all of them are plain RuntimeErrors on the cpu."""


DEMO = Path("configs/demo.yaml")

app = typer.Typer(
    cls=Guarded,
    help="Extract a language model's activations once, train many sparse autoencoders on them. "
    "With no command: run configs/demo.yaml, where it is.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (init, run, plan, extract, toy, train, evaluate, report, schema):
    app.command()(_command)
app.add_typer(store_app, name="store")
app.add_typer(runs_app, name="runs")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(metadata.version("strata-sae"))
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")] = False,
    log_level: Annotated[str, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")] = "info",
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of any error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    if log_level not in ("debug", "info", "warning", "error"):
        raise ConfigError(f"--log-level: {log_level!r} is not allowed; allowed: debug, info, warning, error")
    logging.basicConfig(format="%(message)s", force=True)  # other libraries: warnings and errors only
    logging.getLogger("strata_sae").setLevel("WARNING" if quiet else log_level.upper())
    if context.invoked_subcommand is None and not DEMO.is_file():
        typer.echo(context.get_help())
    elif context.invoked_subcommand is None:
        run(context, DEMO, [])


def main() -> None:
    """Run the command line. Exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    if why := why_not_here(sys.platform, os.environ):
        print(why, file=sys.stderr)
        sys.exit(2)
    # Set before torch is loaded: its threads spin while they wait for each other, and where another process has one of
    # the cores every step then takes many times as long (measured: docs/log.md). A sleeping thread loses nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for stream in (sys.stdout, sys.stderr):  # names of files need not be UTF-8, and are still to be printed
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(obj=supervise)


THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Libraries read them while they are loaded: one ignores nonsense with a line of its own, one ends in a traceback."""
MOST_THREADS = 4096


def why_not_here(platform: str, environment: Mapping[str, str]) -> str | None:
    """What stands against running here, in a line; None if nothing does. platform: as `sys.platform` has it."""
    if platform == "win32":
        return (
            "Windows is not supported, because it has no flock, on which the locks of stores and runs rest; "
            "use WSL 2, Linux or macOS"
        )
    for name in THREADS:
        if (text := environment.get(name)) and not all(_is_count(part) for part in text.split(",")):
            return f"{name}: {text[:60]!r} is no number of threads; set it to 1 to {MOST_THREADS}, or unset it"
    return None


def _is_count(text: str) -> bool:
    digits = text.strip()
    return digits.isascii() and digits.isdecimal() and len(digits) <= 4 and 0 < int(digits) <= MOST_THREADS
