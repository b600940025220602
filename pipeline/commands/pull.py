"""`strata pull`: what `strata push` sent, back as a run folder."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from strata_sae.pipeline.commands.arguments import SharedPlace
from strata_sae.pipeline.commands.stages import shows_progress
from strata_sae.pipeline.paths import reader_of

log = logging.getLogger(__name__)

Out = Annotated[
    Path,
    typer.Argument(
        metavar="OUT",
        parser=reader_of("OUT"),
        help="Folder of the run: a new one; a single SAE is put into its variants/.",
    ),
]
Expected = Annotated[str | None, typer.Option("--expect", metavar="ID", help="The id that push printed.")]


def pull(url: SharedPlace, out: Out, expect: Expected = None) -> None:
    """Fetch a pushed SAE or run, every file checked before anything appears; goes on where it stopped."""
    from strata_sae.pipeline.export.fetching import pull
    from strata_sae.pipeline.progress import Progress

    with Progress("pull", None, "byte", shown=shows_progress()) as bar:
        pulled = pull(url, out, expected_id=expect, announce=bar.expect, advance=bar.advance)
    if (pulled.path / "report.html").exists():
        log.info("report.html is the page that was pushed; `strata report %s` writes it anew from the records", out)
    typer.echo(f"{pulled.path}: complete, {pulled.kind}, id {pulled.id}")
