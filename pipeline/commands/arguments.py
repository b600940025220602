"""What several commands take: a config, changes to it, and a second look at the input files."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.paths import place_reader_of, reader_of

if TYPE_CHECKING:
    from strata_sae.pipeline.config import RunConfig

FIRST_CONFIG = "strata.yaml"
"""The file that `init` writes, and that a command reads where none is named."""
MOST_LATENTS = 2**32 - 2
"""A latent's number has 32 bits."""
ConfigFile = Annotated[
    Path,
    typer.Argument(
        metavar="[CONFIG]",
        parser=reader_of("CONFIG"),
        default_factory=lambda: Path(FIRST_CONFIG),
        show_default=FIRST_CONFIG,
        help="YAML file, for example configs/demo.yaml.",
    ),
]
RunOrVariant = Annotated[
    Path,
    typer.Argument(
        metavar="RUN[/VARIANT]",
        parser=reader_of("RUN"),
        help="Folder of a run, or one of its SAEs, for example runs/demo/topk@blocks.8.hook_resid_post.",
    ),
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY.PATH=VALUE",
        default_factory=list,
        show_default=False,
        help="Change one value; may be repeated.",
    ),
]
Rehash = Annotated[
    bool,
    typer.Option("--rehash", help="Read every input file again, also those that look as they did when last hashed."),
]

SharedPlace = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        parser=place_reader_of("URL"),
        help="hf://<user>/<repository>[@revision][/<folder>], s3://, gs://, az:// or a folder; pull also takes "
        "https://.",
    ),
]
"""Where SAEs and runs are shared: what push and pull take."""
Yes = Annotated[bool, typer.Option("--yes", help="Delete without asking, as scripts need it.")]


def ask_to_delete(folders: Sequence[Path], yes: bool) -> None:
    """Say what is to be deleted, and ask unless `yes`. Ends the command with exit code 1 where the answer is no.

    Raises: ConfigError where there is no terminal that could answer.
    """
    from strata_sae.stores.files.deletion import content_of

    for folder in folders:
        found = content_of(folder)
        typer.echo(f"{folder}: {found.n_files:,} files, {found.n_bytes:,} bytes")
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("--yes: is needed here, since no terminal can answer whether to delete this; nothing was")
    typer.confirm("Delete this for good?", abort=True)


def config_of(path: Path, overrides: list[str], rehash: bool = False) -> "RunConfig":
    """The settings of a config file; with `rehash` the input files are hashed again. Raises: ConfigError."""
    from strata_sae.pipeline.config import load
    from strata_sae.pipeline.input_files import forget

    if rehash:
        forget()
    return load(path, overrides)


def config_file_of(given: Path) -> Path:
    """The config of a run, of its folder or of one of its SAEs: RUN, RUN/VARIANT or RUN/variants/VARIANT."""
    folders = (given, *given.parents[:2])
    return next((folder for folder in folders if (folder / "config.yaml").is_file()), given) / "config.yaml"


def guard(context: typer.Context, config: Path, overrides: list[str]) -> None:
    """Put this process under the SIGBUS guard: the first act of a command that maps a store's files.

    While nothing is loaded the process may still fork. Only `main` hands over the guard (`context.obj`): a process
    that calls a command itself, as tests do, has threads.
    """
    if context.obj is not None:
        context.obj(partial(_damaged_files, config, overrides))


def _damaged_files(path: Path, overrides: list[str]) -> str | None:
    """Which files of the store that a command reads are not what they should be; None if all are."""
    from strata_sae.pipeline.reading.which_store import find_store
    from strata_sae.stores import verify

    return "\n".join(verify(find_store(config_of(path, overrides)))) or None
