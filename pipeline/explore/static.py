"""`strata explore --export DIR`: the app's pages as files that open from a folder, a mail or a server."""

import logging
import shutil
from pathlib import Path

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.explore.chosen_pages import MOST_PAIRS, Chosen, chosen_latents, chosen_pages, compared
from strata_sae.pipeline.explore.links import StaticLinks, file_of
from strata_sae.pipeline.explore.pages import page
from strata_sae.pipeline.explore.screen import World
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.pages.text import count, size
from strata_sae.stores.files.filesystem import (
    FileSystem,
    make_folder,
    naming,
    publish_new_folder,
    staging_path,
    write_new,
)

log = logging.getLogger(__name__)

PAGES_TOLD = 200
"""A line is told after each so many pages."""


def new_folder(path: Path) -> Path:
    """The folder itself. Raises: ConfigError unless it is new or empty, and in no store."""
    outside_stores(path, "--export")
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise ConfigError(f"--export: {path} is there already; name a folder that does not exist, or is empty")
    above = next((folder for folder in path.absolute().parents if folder.exists()), None)
    if above is not None and not above.is_dir():
        raise ConfigError(f"--export: {above} is a file, so {path.name} cannot lie in it; name another folder")
    return path


def export_pages(world: World, folder: Path, n_latents: int) -> str:
    """Write the pages; the folder appears whole, or a kill leaves none.

    n_latents: of each SAE. Returns: what was written and what was left out, in lines.
    """
    chosen: Chosen = {
        (run, name): chosen_latents(sae, n_latents)
        for run, opened in world.runs.items()
        for name, sae in opened.saes.items()
    }
    target = folder.absolute()
    staged = staging_path(target)
    try:
        with naming(target):
            make_folder(target.parent)
            staged.mkdir()
            n_pages, n_bytes = _write(world, chosen, staged)
            publish_new_folder(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return f"{folder}: {count(n_pages)} pages, {size(n_bytes)}; open index.html\n{_left_out(world, chosen)}"


def _write(world: World, chosen: Chosen, folder: Path) -> tuple[int, int]:
    """Write each page to its file below a folder. Returns: pages, and bytes."""
    pages = chosen_pages(world, chosen)
    written = frozenset(one.address for one in pages)
    n_bytes = 0
    for number, one in enumerate(pages):
        text = page(one.screen, world, StaticLinks(one.address, written), one.values).encode()
        path = folder / file_of(one.address)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_new(FileSystem(), path, text)
        n_bytes += len(text)
        if number % PAGES_TOLD == PAGES_TOLD - 1:
            log.info("%s of %s pages", count(number + 1), count(len(pages)))
    return len(pages), n_bytes


def _left_out(world: World, chosen: Chosen) -> str:
    all_latents = sum(sae.d_sae for run in world.runs.values() for sae in run.saes.values())
    n_latents = all_latents - sum(map(len, chosen.values()))
    n_pairs = sum(max(0, len(compared(run)) - MOST_PAIRS) for run in world.runs.values())
    left = [f"{count(n_latents)} latents (--latents N)", f"{count(n_pairs)} comparisons"]
    return f"left out: {', '.join(left)}, documents, and the search, in whose place is an index of tokens"
