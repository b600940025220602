"""The commands of `runs`: what was trained here, and its deletion."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strata_sae.pipeline.commands.arguments import Yes, ask_to_delete
from strata_sae.pipeline.paths import reader_of

if TYPE_CHECKING:
    from strata_sae.pipeline.runs.listing import RunRow

runs_app = typer.Typer(help="List runs, or delete one.", rich_markup_mode=None)

TITLES = ("run", "when", "SAEs finished", "sites", "best R2 at L0", "size", "store")


@runs_app.command("list")
def list_(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", parser=reader_of("FOLDER"), help="Folder that runs lie in; runs if not given."
        ),
    ] = Path("runs"),
) -> None:
    """The runs in a folder: when, SAEs finished of those begun, sites, best R2, size, store and whether it is there."""
    from strata_sae.pipeline.runs.listing import list_runs

    typer.echo(runs_table(list_runs(folder)))


@runs_app.command()
def delete(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", parser=reader_of("RUN"), help="Folder of a run, for example runs/demo.")
    ],
    variant: Annotated[
        str | None,
        typer.Argument(metavar="[VARIANT]", help="Delete this only: a variant at every site, or <variant>@<site>."),
    ] = None,
    yes: Yes = False,
) -> None:
    """Delete a run, or one variant of it. A run that is being written, and files that no stage writes, are refused."""
    from strata_sae.pipeline.runs.deleting import deletable_run, deletable_variants, delete_run, delete_variants

    if variant is None:
        ask_to_delete(deletable_run(run), yes)
        delete_run(run)
        typer.echo(f"{run}: deleted")
        return
    ask_to_delete(deletable_variants(run, variant), yes)
    delete_variants(run, variant)
    typer.echo(f"{run}: {variant} is deleted; run report again, and take it out of the config, or train makes it anew")


def runs_table(rows: "list[RunRow]") -> str:
    """The runs as text, a line each; a problem is a line of its own below its run."""
    from strata_sae.pipeline.pages.tables import aligned

    lines = aligned([TITLES, *map(_cells, rows)])
    problems = ["", *(f"\n  {row.problem}" if row.problem else "" for row in rows)]
    return "\n".join(line + problem for line, problem in zip(lines, problems, strict=True))


def _cells(row: "RunRow") -> tuple[str, ...]:
    from strata_sae.pipeline.pages.text import size

    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.changed)) if row.changed is not None else ""
    diverged = f", {row.diverged} diverged" if row.diverged else ""
    sites = row.sites[0] + (f" +{len(row.sites) - 1}" if len(row.sites) > 1 else "") if row.sites else ""
    best = f"{row.best.r2:.4f} at {row.best.l0:.1f}" if row.best else ""
    stores = [str(place) if place else f"{name[:12]} (not there)" for name, place in row.stores.items()]
    saes = f"{row.finished}/{row.begun}{diverged}" if row.begun else ""
    return (row.name, when, saes, sites, best, size(row.n_bytes), ", ".join(stores))
