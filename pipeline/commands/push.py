"""`strata push`: a trained SAE, or a whole run, to where others can pull it."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strata_sae.pipeline.commands.arguments import SharedPlace
from strata_sae.pipeline.commands.stages import shows_progress
from strata_sae.pipeline.errors import ConfigError, nearest
from strata_sae.pipeline.paths import reader_of

if TYPE_CHECKING:
    from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder

log = logging.getLogger(__name__)

Address = Annotated[
    Path,
    typer.Argument(
        metavar="RUN[/VARIANT]",
        parser=reader_of("RUN/VARIANT"),
        help="A run, such as runs/demo, or one SAE of it, runs/demo/topk@blocks.8.hook_resid_post.",
    ),
]


def push(saes: Address, url: SharedPlace) -> None:
    """Send a trained SAE, or a run, with its exports and a model card; goes on where it stopped."""
    from strata_sae.pipeline.export.sending import NOT_SENT, push
    from strata_sae.pipeline.outside import outside_stores
    from strata_sae.pipeline.progress import Progress
    from strata_sae.stores import local_folder

    if (place := local_folder(url)) is not None:
        outside_stores(place, "URL")
    with Progress("push", None, "byte", shown=shows_progress()) as bar:
        pushed = push(folder_at(saes), url, announce=bar.expect, advance=bar.advance)
    for line in pushed.left_out:
        log.warning("left out: %s", line)
    for line in pushed.notes:
        log.warning("%s", line)
    log.info("%s", NOT_SENT)
    typer.echo(f"{url}: complete, {pushed.n_files} files, {pushed.n_bytes:,} bytes, id {pushed.id}")


def folder_at(path: Path) -> "RunFolder | VariantFolder":
    """The run, or the SAE, that a path names; `variants/`, and the site if there is one only, may be left out.

    Raises: ConfigError if there is neither.
    """
    from strata_sae.pipeline.runs.addresses import named_without_site
    from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
    from strata_sae.pipeline.runs.listing import is_run

    for folder in (VariantFolder(path), VariantFolder(path.parent / "variants" / path.name)):
        if folder.config.is_file():
            return folder
    if is_run(path):
        return RunFolder(path)
    if (found := named_without_site(path)) is not None:
        return found
    there = sorted((path.parent / "variants").glob("*@*"))
    hint = nearest(path.name, [name for folder in there for name in (folder.name, folder.name.partition("@")[0])])
    raise ConfigError(f"RUN/VARIANT: {path}: neither a run nor an SAE of one{hint}; runs lie in runs/ (`runs list`)")
