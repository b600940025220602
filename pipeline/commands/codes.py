"""`strata codes`: the sparse codes of all latents on all rows."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strata_sae.pipeline.commands.arguments import Overrides, guard
from strata_sae.pipeline.paths import reader_of

if TYPE_CHECKING:
    from strata_sae.pipeline.config.run import TrainConfig
    from strata_sae.pipeline.engines import Engine

CodedRunFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN[/VARIANT]",
        parser=reader_of("RUN"),
        help="Folder of a run, for example runs/demo, or one SAE of it, runs/demo/topk@blocks.8.hook_resid_post.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be made and what it takes; make nothing.")]


def codes(context: typer.Context, run: CodedRunFolder, overrides: Overrides, dry_run: DryRun = False) -> None:
    """The sparse codes of all latents on all rows of the store, for analyze and explore; no model is needed."""
    guard(context, _run_folder(run) / "config.yaml", overrides)
    from strata_sae.pipeline.codes.build import build_codes
    from strata_sae.pipeline.commands.push import folder_at
    from strata_sae.pipeline.commands.stages import shows_progress
    from strata_sae.pipeline.outside import outside_stores
    from strata_sae.pipeline.runs.addresses import run_of
    from strata_sae.pipeline.runs.folders import RunFolder

    folder = folder_at(outside_stores(run, "RUN"))
    whole = folder if isinstance(folder, RunFolder) else run_of(folder)
    build_codes(
        whole.path,
        overrides,
        only=None if isinstance(folder, RunFolder) else folder.name,
        engine_of=partial(_engine_of, whole.claims / "engine"),
        dry_run=dry_run,
        show_progress=shows_progress(),
    )


def _run_folder(given: Path) -> Path:
    """The folder of the run, if one is there: that which is given, or one above it."""
    return next((path for path in (given, *given.parents[:2]) if (path / "config.yaml").is_file()), given)


def _engine_of(at: Path, config: "TrainConfig") -> "Engine":
    from strata_sae.pipeline.commands.engines import engine_of

    return engine_of(config.engine, at=at, device=config.training.device)
