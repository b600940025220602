"""The head of a remote store: everything but its rows. A few small files that say what all the others must be."""

import uuid
from pathlib import Path
from typing import NamedTuple

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import MAX_JSON_BYTES, parse_canonical, read_plain
from strata_sae.stores.files.filesystem import FileSystem, remove_tree
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.files.locks import Lease, remove_dead
from strata_sae.stores.format.arrays import MANIFEST, PLAN
from strata_sae.stores.format.commits import file_records, read_listed, read_manifest, statistics_name
from strata_sae.stores.format.plan import Plan
from strata_sae.stores.format.plan_file import parse_plan, read_plan
from strata_sae.stores.format.records import UNKNOWN_BYTES, FileRecord
from strata_sae.stores.reading.checking import check_sizes
from strata_sae.stores.remote.fetching import Fetcher, PullFolder, RemotePlace, local_errors
from strata_sae.stores.remote.retries import RetryPolicy, in_threads
from strata_sae.stores.remote.transports import open_source

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
