"""`strata codes`: the sparse codes of all latents on all rows."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strata_sae.pipeline.commands.arguments import Overrides, RunOrVariant, config_file_of, guard
from strata_sae.pipeline.errors import ConfigError

if TYPE_CHECKING:
    from strata_sae.pipeline.config.run import TrainConfig
    from strata_sae.pipeline.engines import Engine
    from strata_sae.pipeline.runs.folders import RunFolder

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be made and what it takes; make nothing.")]

Verify = Annotated[
    bool, typer.Option("--verify", help="Read every byte of the codes that are there and say what is damaged.")
]


def codes(
    context: typer.Context, run: RunOrVariant, overrides: Overrides, dry_run: DryRun = False, verify: Verify = False
) -> None:
    """The sparse codes of all latents on all rows of the store, for analyze and explore; no model is needed."""
    guard(context, config_file_of(run), overrides)
    from strata_sae.pipeline.codes.build import build_codes
    from strata_sae.pipeline.commands.push import folder_at
    from strata_sae.pipeline.commands.stages import shows_progress
    from strata_sae.pipeline.outside import outside_stores
    from strata_sae.pipeline.runs.addresses import run_of
    from strata_sae.pipeline.runs.folders import RunFolder

    folder = folder_at(outside_stores(run, "RUN"))
    whole = folder if isinstance(folder, RunFolder) else run_of(folder)
    if verify:
        _verify(whole, None if isinstance(folder, RunFolder) else folder.name)
        return
    build_codes(
        whole.path,
        overrides,
        only=None if isinstance(folder, RunFolder) else folder.name,
        engine_of=partial(_engine_of, whole.claims / "engine"),
        dry_run=dry_run,
        show_progress=shows_progress(),
    )


def _verify(run: "RunFolder", only: str | None) -> None:
    """Say of each codes store what is damaged, or that nothing is; exit code 1 if something is."""
    from strata_sae.stores import verify_codes

    folders = [folder for folder in run.trained() if only in (None, folder.name) and folder.codes.is_dir()]
    found = {folder: verify_codes(folder.codes) for folder in folders}
    for folder, problems in found.items():
        typer.echo("\n".join(problems) or f"{folder.codes}: every byte is as it was written")
    if not folders:
        raise ConfigError(f"{run.path}: no SAE has codes yet; make them with: strata codes {run.path}")
    if any(found.values()):
        raise typer.Exit(1)


def _engine_of(at: Path, config: "TrainConfig") -> "Engine":
    from strata_sae.pipeline.commands.engines import engine_of

    return engine_of(config.engine, at=at, device=config.training.device)
