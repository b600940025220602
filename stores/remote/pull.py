"""Fetching a remote store, its head or all of it: each file is checked as it arrives, and nothing appears half."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.files.canonical import MAX_JSON_BYTES, parse_canonical, read_plain
from strata_sae.stores.files.filesystem import FileSystem, missing_space, remove_tree
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.files.locks import Lease, hold, remove_dead
from strata_sae.stores.format.commits import file_records, read_listed, read_manifest, statistics_name
from strata_sae.stores.format.folders import refuse_inside_a_store
from strata_sae.stores.format.plan import COMMITS, MANIFEST, PLAN, STATISTICS, TIMINGS, Plan
from strata_sae.stores.format.plan_file import parse_plan, read_plan
from strata_sae.stores.format.records import UNKNOWN_BYTES, FileRecord
from strata_sae.stores.reading.checking import check_opened, check_sizes
from strata_sae.stores.remote.fetching import Fetcher, PullFolder, RemotePlace, local_errors
from strata_sae.stores.remote.transports import Advance, RetryPolicy, in_threads, open_source

_HEADS = "heads"
_HEX = frozenset("0123456789abcdef")


class Head(NamedTuple):
    """A remote store, opened."""

    folder: Path
    """Local folder with plan, MANIFEST, commit records, statistics, token bytes and zarr's metadata."""
    plan: Plan
    store_id: str
    files: dict[str, FileRecord]
    """Every data file by path; they lie in `place`."""
    place: RemotePlace


def open_head(
    url: str | Path, cache: Path, *, expected_id: str | None = None, policy: RetryPolicy | None = None
) -> Head:
    """Open a remote store: fetch its head into `cache`, unless it is there, and know the place of its rows.

    Raises: StoreError if there is no finished store, it is damaged, or its id is not `expected_id`.
    """
    policy = policy or RetryPolicy()
    source = open_source(url, policy)
    fetcher = Fetcher(source, policy)
    manifest = fetch_manifest(fetcher, expected_id)
    store_id = sha256(manifest)
    folder = cache / _HEADS / store_id
    try:
        plan, files = _read_head(folder, store_id)
    except StoreError:
        with local_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _fill(FileSystem(), fetcher, manifest, folder)
        plan, files = _read_head(folder, store_id)
    sizes = {path: file.n_bytes for path, file in files.items()}
    return Head(folder, plan, store_id, files, RemotePlace(fetcher, sizes))


def fetch_manifest(fetcher: Fetcher, expected_id: str | None) -> bytes:
    """The MANIFEST's bytes; their hash is the store id. Raises: StoreError if it is not `expected_id`."""
    if expected_id is not None and (len(expected_id) != 64 or not set(expected_id) <= _HEX):
        raise StoreError(f"expected store id {expected_id!r}: a store id is 64 hex digits (see `store info`)")
    try:
        data = fetcher.get(MANIFEST)
    except StoreError as error:
        raise StoreError(f"{fetcher.url}: no finished store can be read there ({error})") from None
    if expected_id is not None and sha256(data) != expected_id:
        raise StoreError(f"{fetcher.url}: holds the store {sha256(data)}, not the expected {expected_id}")
    return data


def fetch_head(fetcher: Fetcher, manifest: bytes, pulled: PullFolder) -> tuple[Plan, dict[str, FileRecord]]:
    """Fetch the head into the folder, each file checked by one that was checked before it.

    Returns: the plan, and the record of every data file by path.

    Raises: StoreError if the store is damaged, or announces what no store may hold.
    """
    listed = parse_canonical(manifest, f"{fetcher.url}/{MANIFEST}")
    plan_id = listed.get("plan_id")
    if not isinstance(plan_id, str):
        raise StoreError(f"{fetcher.url}/{MANIFEST}: not a MANIFEST; the file is damaged")
    _fetch_missing(fetcher, pulled, [FileRecord(PLAN, UNKNOWN_BYTES, plan_id)])
    plan = parse_plan(read_plain(pulled.store / PLAN), f"{fetcher.url}/{PLAN}")
    pulled.put(MANIFEST, manifest)
    _, hashes = read_manifest(pulled.store, plan)
    _fetch_missing(fetcher, pulled, [FileRecord(name, UNKNOWN_BYTES, hash_) for name, hash_ in hashes.items()])
    records = checked_records(pulled.store, plan, hashes)
    _fetch_missing(fetcher, pulled, [records[plan.vocabulary_file]])
    for name, data in plan.metadata_files().items():
        if not pulled.has(FileRecord(name, len(data), sha256(data))):
            pulled.put(name, data)
    return plan, records


def checked_records(store: Path, plan: Plan, hashes: dict[str, str]) -> dict[str, FileRecord]:
    """The record of every data file by path, from the plan and the commit records.

    Raises: StoreError if a record is not the MANIFEST's, the files are not the plan's, or one is larger than its rows
        can make it.
    """
    for site in plan.sites:
        read_listed(store, statistics_name(site), hashes[statistics_name(site)])
    records = file_records(store, plan, hashes)
    check_sizes(store, plan, records)
    n_bytes = records[plan.vocabulary_file].n_bytes
    if n_bytes > MAX_JSON_BYTES:
        raise StoreError(f"{store}: {plan.vocabulary_file} is said to have {n_bytes} bytes, and JSON {MAX_JSON_BYTES}")
    return records


def _read_head(folder: Path, store_id: str) -> tuple[Plan, dict[str, FileRecord]]:
    """A head that was fetched before, every file of it hashed again. Raises: StoreError if it is not whole."""
    plan = read_plan(folder)
    found_id, hashes = read_manifest(folder, plan)
    expected = {name: sha256(data) for name, data in plan.metadata_files().items()}
    expected[plan.vocabulary_file] = plan.files[plan.vocabulary_file].sha256
    try:
        records = checked_records(folder, plan, hashes)
        wrong = [name for name, hash_ in expected.items() if sha256(read_plain(folder / name)) != hash_]
    except FileNotFoundError as error:
        raise StoreError(f"{error.filename}: missing; fetch the file again") from None
    if wrong or found_id != store_id:
        raise StoreError(f"{folder}: {wrong[:1] or found_id} is not what the store's id stands for")
    return plan, records


def _fill(files: FileSystem, fetcher: Fetcher, manifest: bytes, folder: Path) -> None:
    prefix = f".{folder.name}-"
    remove_dead(files, folder.parent, prefix)
    with Lease(files, folder.with_name(prefix + uuid.uuid4().hex[:12])) as work:
        pulled = PullFolder(files, work)
        fetch_head(fetcher, manifest, pulled)
        if folder.exists():  # damaged, or another process was quicker
            files.rename(folder, work / "replaced")
        try:
            files.rename(pulled.store, folder)
        except OSError:
            if not folder.is_dir():
                raise
        files.sync_folder(folder.parent)
        remove_tree(files, work / "replaced")


def _fetch_missing(fetcher: Fetcher, pulled: PullFolder, wanted: list[FileRecord]) -> None:
    def fetch(file: FileRecord) -> None:
        pulled.fetch(fetcher, file, lambda n_bytes: None)

    in_threads(fetch, [file for file in wanted if not pulled.has(file)], fetcher.stop)


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
    with alone(work), local_errors(work):
        drop_another(files, work, work / "store" / MANIFEST, manifest)
        pulled = PullFolder(files, work)
        _, records = fetch_head(fetcher, manifest, pulled)
        announce(sum(file.n_bytes for file in records.values()))
        fetch_data(fetcher, pulled, list(records.values()), advance)
        _finish(files, pulled, out, manifest)
        remove_tree(files, work)
        files.sync_folder(out.parent)
    return sha256(manifest)


def fetch_data(fetcher: Fetcher, pulled: PullFolder, wanted: list[FileRecord], advance: Advance) -> None:
    """Fetch the files that are not there yet. Raises: StoreError if the disk is too small, or one cannot be had."""
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


def drop_another(files: FileSystem, work: Path, pulled_manifest: Path, manifest: bytes) -> None:
    """Remove what an earlier pull of something else has left in the folder `work`."""
    try:
        same = read_plain(pulled_manifest) == manifest
    except (FileNotFoundError, StoreError):
        same = False
    remove_tree(files, work / "partial")
    if not same:
        remove_tree(files, pulled_manifest.parent)
        remove_tree(files, work / "quarantine")


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Hold the one pull into a folder. Raises: StoreError if another process is at it."""
    if work.is_symlink():
        raise StoreError(f"{work}: is a link; remove it")
    lock = work.with_name(work.name + ".lock")
    busy = StoreError(f"{work}: another process is pulling into it; wait for it, or choose another folder")
    with hold(lock, wait=False, needed=False, busy=busy):
        yield
        lock.unlink(missing_ok=True)
