"""Pushing a trained SAE, or a run: its records and weights, its exports, a card, and last a manifest of hashes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.export.card import front_page, pages_of
from strata_sae.pipeline.export.forms import write_forms
from strata_sae.pipeline.export.shared import MANIFEST, SharedRun, SharedSAE, shared_run, shared_sae
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.pages.text import masked
from strata_sae.pipeline.runs.claims import refuse_claimed
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.record_files import read_yaml
from strata_sae.pipeline.strict_yaml import parse
from strata_sae.stores import Bundle, FileRecord, local_folder, push_bundle
from strata_sae.stores.files.canonical import Json
from strata_sae.stores.files.hashing import file_sha256

VERSION = 1
"""Of the manifest."""
NOT_SENT = (
    "checkpoints, trials of a search for an L0, codes, ablations, analyses, hypotheses, loader/ and documents/ are not "
    "sent: they are made anew (codes by strata codes RUN, where the store is). Answers of language models (answers/) "
    "stay here: they quote the text"
)


@dataclass(frozen=True)
class Pushed:
    """What was sent."""

    id: str
    """sha256 of the manifest: who pulls gives it to `--expect`."""
    n_files: int
    n_bytes: int
    left_out: list[str]
    """A line for everything that is there and was not sent."""
    notes: list[str]
    """What whoever pushes should know of what was sent."""


def push(
    folder: RunFolder | VariantFolder,
    url: str,
    *,
    announce: Callable[[int], None] = lambda n_bytes: None,
    advance: Callable[[int], None] = lambda n_bytes: None,
) -> Pushed:
    """Send a run, or one trained SAE, to a model repository of the hub, a bucket or a folder.

    Raises: CheckpointError if there is no finished SAE, or its files do not belong together; ConfigError for a place
        inside a store or the run; StoreError if something else is there.
    """
    _refuse_its_own(folder.path, url)
    if isinstance(folder, RunFolder):
        refuse_claimed(folder)
    else:
        refuse_claimed(RunFolder(_run_of(folder)), folder.name)
    with TemporaryDirectory(prefix="strata-push-") as exports:
        shared = shared_run(folder) if isinstance(folder, RunFolder) else shared_sae(folder)
        left_out = list(shared.left_out)
        local = _files(shared, Path(exports), left_out)
        notes = _personal(shared)
        kind, name = ("run", _name(folder)) if isinstance(shared, SharedRun) else ("variant", shared.name)
        bundle = _bundle(kind, name, local)
        pages = pages_of(shared, bundle, url)
        front = front_page(pages, url)
        push_bundle(bundle, local, url, pages=pages, front=front, announce=announce, advance=advance)
    n_bytes = sum(file.n_bytes for file in bundle.files.values())
    return Pushed(bundle.id, len(bundle.files), n_bytes, left_out, notes)


def _run_of(folder: VariantFolder) -> Path:
    return folder.path.parent.parent


def _name(folder: RunFolder | VariantFolder) -> str:
    return folder.path.resolve().name


def _refuse_its_own(path: Path, url: str) -> None:
    """Raises: ConfigError if the place lies in a store, or in the folder that is sent."""
    place = local_folder(url)
    if place is None:
        return
    outside_stores(place, "URL")
    if place.resolve().is_relative_to(path.resolve()):
        raise ConfigError(f"URL: {place} lies in what is pushed; choose a folder outside of {path}")


def _files(shared: SharedRun | SharedSAE, exports: Path, left_out: list[str]) -> dict[str, Path]:
    """Path in the bundle -> file."""
    if isinstance(shared, SharedSAE):
        own = {name: shared.trained.folder.path / name for name in shared.names}
        (into := exports / shared.name).mkdir()
        return own | {name: into / name for name in write_forms(shared.trained, into, left_out)}
    local = {name: shared.folder.path / name for name in shared.names}
    for sae in shared.saes:
        local |= {f"variants/{sae.name}/{name}": path for name, path in _files(sae, exports, left_out).items()}
    return local


def _personal(shared: SharedRun | SharedSAE) -> list[str]:
    """Which files of a run name paths of this machine, and with them perhaps a person. The files are what they are."""
    if isinstance(shared, SharedSAE) or shared.folder.config.name not in shared.names:
        return []
    config = parse(read_yaml(shared.folder.config)[0], shared.folder.config.name)[0]
    if masked(config) == config:
        return []
    return [f"{shared.folder.config.name} is sent as it is, with the paths of this machine that it names"]


def _bundle(kind: str, name: str, local: Mapping[str, Path]) -> Bundle:
    facts: dict[str, Json] = {"kind": kind, "name": name, "version": VERSION}
    try:
        files = {path: FileRecord(path, file.stat().st_size, file_sha256(file)) for path, file in local.items()}
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read ({error.strerror}); nothing was sent") from None
    return Bundle(MANIFEST, facts, files)
