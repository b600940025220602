"""Fetching a whole store: what arrives is checked byte by byte, and appears whole under its name or not at all."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.files.canonical import read_plain
from strata_sae.stores.files.filesystem import FileSystem, missing_space, remove_tree
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.files.locks import hold
from strata_sae.stores.format.arrays import COMMITS, MANIFEST, STATISTICS, TIMINGS
from strata_sae.stores.format.folders import refuse_inside_a_store
from strata_sae.stores.format.plan_file import read_plan
from strata_sae.stores.format.records import FileRecord
from strata_sae.stores.reading.checking import check_opened
from strata_sae.stores.remote.fetching import Fetcher, PullFolder, local_errors
from strata_sae.stores.remote.head import fetch_head, fetch_manifest
from strata_sae.stores.remote.retries import RetryPolicy, in_threads
from strata_sae.stores.remote.transports import Advance, open_source


def pull(
    url: str | Path,
    out: Path,
    *,
    expected_id: str | None = None,
    policy: RetryPolicy | None = None,
    announce: Callable[[int], None] = lambda n_bytes: None,
    advance: Advance = lambda n_bytes: None,
    files: FileSystem | None = None,
) -> str:
    """Fetch the store at `url` into the new folder `out`. Returns: the store id.

    An interrupted pull goes on where it was, from `.<name>.pulling` beside `out`.

    Args:
        expected_id: store id from a source that is trusted; without it only damage is found, no forgery.
        announce: told once how many bytes the data files have.
        advance: told of bytes as they come (negative: those of a wrong copy, taken back). Called by several threads.
    Raises: StoreError if the store is not there, damaged, too large for the disk, or another one than expected.

    """
    files, policy = files or FileSystem(), policy or RetryPolicy()
    out = out.absolute()
    refuse_inside_a_store(out, "pull", may_be_one=True)
    fetcher = Fetcher(open_source(url, policy), policy)
    manifest = fetch_manifest(fetcher, expected_id)
    if _is_there(out, manifest):
        return sha256(manifest)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.with_name(f".{out.name}.pulling")
    with _alone(work), local_errors(work):
        _drop_another(files, work, manifest)
        pulled = PullFolder(files, work)
        _, records = fetch_head(fetcher, manifest, pulled)
        announce(sum(file.n_bytes for file in records.values()))
        _fetch_data(fetcher, pulled, list(records.values()), advance)
        _finish(files, pulled, out, manifest)
        remove_tree(files, work)
        files.sync_folder(out.parent)
    return sha256(manifest)


def _fetch_data(fetcher: Fetcher, pulled: PullFolder, wanted: list[FileRecord], advance: Advance) -> None:
    missing: list[FileRecord] = []

    def look(file: FileRecord) -> None:
        if pulled.has(file):
            advance(file.n_bytes)
        else:
            missing.append(file)

    in_threads(look, wanted, fetcher.stop)
    if problem := missing_space(pulled.store, sum(file.n_bytes for file in missing)):
        raise StoreError(f"{pulled.store}: {problem}; make room, then pull again: what is there is kept")
    in_threads(lambda file: pulled.fetch(fetcher, file, advance), sorted(missing), fetcher.stop)


def _finish(files: FileSystem, pulled: PullFolder, out: Path, manifest: bytes) -> None:
    for folder in (COMMITS, STATISTICS, TIMINGS):
        files.make_folder(pulled.store / folder)
    if check_opened(pulled.store, read_plan(pulled.store)).store_id != sha256(manifest):
        raise StoreError(f"{pulled.store}: its MANIFEST changed while it was fetched; pull again")
    for folder, _, _ in os.walk(pulled.store, topdown=False):
        files.sync_folder(Path(folder))
    try:
        files.rename(pulled.store, out)
    except OSError as error:
        raise StoreError(f"{out}: cannot be made ({explain(error)}); the whole store is in {pulled.store}") from None


def _is_there(out: Path, manifest: bytes) -> bool:
    """Whether `out` is this very store. Raises: StoreError if it is anything else but an empty folder."""
    if not out.exists() and not out.is_symlink():
        return False
    if out.is_dir() and not any(out.iterdir()):
        return False
    try:
        if read_plain(out / MANIFEST) != manifest:
            raise StoreError(f"{out}: is another store; choose another folder")
    except FileNotFoundError:
        raise StoreError(f"{out}: is there, is no empty folder and holds no store; choose another folder") from None
    check_opened(out, read_plan(out))
    return True


def _drop_another(files: FileSystem, work: Path, manifest: bytes) -> None:
    """Remove what an earlier pull of another store has left under this name."""
    try:
        same = read_plain(work / "store" / MANIFEST) == manifest
    except (FileNotFoundError, StoreError):
        same = False
    remove_tree(files, work / "partial")
    if not same:
        remove_tree(files, work / "store")
        remove_tree(files, work / "quarantine")


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Hold the one pull into a folder. Raises: StoreError if another process is at it."""
    if work.is_symlink():
        raise StoreError(f"{work}: is a link; remove it")
    lock = work.with_name(work.name + ".lock")
    with ExitStack() as held:
        try:
            held.enter_context(hold(lock, wait=False, needed=False))
        except BlockingIOError:
            raise StoreError(
                f"{work}: another process is pulling into it; wait for it, or choose another folder"
            ) from None
        yield
        lock.unlink(missing_ok=True)
