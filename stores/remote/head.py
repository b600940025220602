"""The head of a remote store: everything but its rows. A few small files that say what all the others must be."""

import uuid
from pathlib import Path
from typing import Any, NamedTuple

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import MAX_JSON_BYTES, parse_canonical, read_plain, sha256
from strata_sae.stores.files.filesystem import FileSystem, remove_tree
from strata_sae.stores.files.locks import Lease, remove_dead
from strata_sae.stores.format.arrays import MANIFEST, PLAN
from strata_sae.stores.format.contents import all_files, read_listed, read_manifest, statistics_name
from strata_sae.stores.format.plan import Plan, parse_plan, read_plan
from strata_sae.stores.format.sizes import largest_shard_bytes
from strata_sae.stores.remote.fetching import Fetcher, Landing, RemotePlace, Wanted, local_errors
from strata_sae.stores.remote.retries import Patience, in_threads
from strata_sae.stores.remote.transports import open_source

_HEADS = "heads"
_HEX = frozenset("0123456789abcdef")


class Head(NamedTuple):
    """A remote store, opened."""

    folder: Path
    """Local folder with plan, MANIFEST, commit records, statistics, token bytes and zarr's metadata."""
    plan: Plan
    store_id: str
    sizes: dict[str, int]
    """Bytes of every data file by path; they lie in `place`."""
    place: RemotePlace


def open_head(
    url: str | Path, cache: Path, *, expected_id: str | None = None, patience: Patience | None = None
) -> Head:
    """Open a remote store: fetch its head into `cache`, unless it is there, and know the place of its rows.

    Raises: StoreError if there is no finished store, it is damaged, or its id is not `expected_id`.
    """
    patience = patience or Patience()
    source = open_source(url, patience)
    fetcher = Fetcher(source, patience)
    manifest = fetch_manifest(fetcher, expected_id)
    store_id = sha256(manifest)
    folder = cache / _HEADS / store_id
    try:
        plan, records = _read_head(folder, store_id)
    except StoreError:
        with local_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _fill(FileSystem(), fetcher, manifest, folder)
        plan, records = _read_head(folder, store_id)
    sizes = {path: int(record["bytes"]) for path, record in records.items()}
    return Head(folder, plan, store_id, sizes, RemotePlace(fetcher, sizes))


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


def fetch_head(fetcher: Fetcher, manifest: bytes, landing: Landing) -> tuple[Plan, dict[str, dict[str, Any]]]:
    """Bring the head into the landing, each file checked by one that was checked before it.

    Returns: the plan, and bytes and sha256 of every data file by path.

    Raises: StoreError if the store is damaged, or announces what no store may hold.
    """
    listed = parse_canonical(manifest, f"{fetcher.url}/{MANIFEST}")
    plan_id = listed.get("plan_id")
    if not isinstance(plan_id, str):
        raise StoreError(f"{fetcher.url}/{MANIFEST}: not a MANIFEST; the file is damaged")
    _fetch_missing(fetcher, landing, [Wanted(PLAN, plan_id, None)])
    plan = parse_plan(read_plain(landing.store / PLAN), f"{fetcher.url}/{PLAN}")
    landing.put(MANIFEST, manifest)
    _, hashes = read_manifest(landing.store, plan)
    if not all(isinstance(hash_, str) for hash_ in hashes.values()):
        raise StoreError(f"{fetcher.url}/{MANIFEST}: a hash is not text; the file is damaged")
    _fetch_missing(fetcher, landing, [Wanted(name, hash_, None) for name, hash_ in hashes.items()])
    records = data_files(landing.store, plan, hashes)
    vocabulary = records[plan.vocabulary_file]
    _fetch_missing(fetcher, landing, [Wanted(plan.vocabulary_file, vocabulary["sha256"], vocabulary["bytes"])])
    for name, data in plan.metadata_files().items():
        if not landing.has(Wanted(name, sha256(data), len(data))):
            landing.put(name, data)
    return plan, records


def data_files(store: Path, plan: Plan, hashes: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Bytes and sha256 of every data file by path, from the plan and the commit records.

    Raises: StoreError if a record is not the MANIFEST's, the files are not the plan's, or one is larger than its rows
        can make it.
    """
    for site in plan.sites:
        read_listed(store, statistics_name(site), hashes[statistics_name(site)])
    records = all_files(store, plan, hashes)
    limits = _largest(plan)
    for path, record in records.items():
        if record["bytes"] > limits[path]:
            raise StoreError(
                f"{store}: {path} is said to have {record['bytes']} bytes, but its rows can make {limits[path]} at most"
            )
    return records


def _largest(plan: Plan) -> dict[str, int]:
    """What every data file can have at most; the extras, what the plan says."""
    limits = {path: record["bytes"] for path, record in plan.files.items()} | {plan.vocabulary_file: MAX_JSON_BYTES}
    for spec in plan.arrays():
        for shard in range(spec.n_shards):
            limits[spec.shard_path(shard)] = largest_shard_bytes(spec, shard)
    return limits


def _read_head(folder: Path, store_id: str) -> tuple[Plan, dict[str, dict[str, Any]]]:
    """A head that was fetched before, every file of it hashed again. Raises: StoreError if it is not whole."""
    plan = read_plan(folder)
    found_id, hashes = read_manifest(folder, plan)
    expected = {name: sha256(data) for name, data in plan.metadata_files().items()}
    expected[plan.vocabulary_file] = plan.files[plan.vocabulary_file]["sha256"]
    try:
        records = data_files(folder, plan, hashes)
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
        landing = Landing(files, work)
        fetch_head(fetcher, manifest, landing)
        if folder.exists():  # damaged, or another process was quicker
            files.rename(folder, work / "replaced")
        try:
            files.rename(landing.store, folder)
        except OSError:
            if not folder.is_dir():
                raise
        files.sync_folder(folder.parent)
        remove_tree(files, work / "replaced")


def _fetch_missing(fetcher: Fetcher, landing: Landing, wanted: list[Wanted]) -> None:
    def fetch(file: Wanted) -> None:
        landing.fetch(fetcher, file, lambda n_bytes: None)

    in_threads(fetch, [file for file in wanted if not landing.has(file)], fetcher.stop)
