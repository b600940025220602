"""Sending a finished store: its identity first, then its data, the MANIFEST last, so that no half store is seen."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.format.commits import read_manifest
from strata_sae.stores.format.plan import MANIFEST, PLAN, STAGING, TIMINGS, Plan
from strata_sae.stores.format.plan_file import read_plan
from strata_sae.stores.format.records import FileRecord
from strata_sae.stores.reading.checking import check_opened
from strata_sae.stores.remote.cards import dataset_card
from strata_sae.stores.remote.fetching import Fetcher
from strata_sae.stores.remote.pull import checked_records
from strata_sae.stores.remote.transports import Advance, Entry, RetryPolicy, Target, in_threads, open_target

_BATCH_FILES, _BATCH_BYTES = 64, 8 * 2**30


def push(
    store: Path,
    url: str | Path,
    *,
    policy: RetryPolicy | None = None,
    announce: Callable[[int], None] = lambda n_bytes: None,
    advance: Advance = lambda n_bytes: None,
) -> str:
    """Send a finished store to `url`. Returns: the store id.

    Files that are there with the right size are not sent again, so an interrupted push goes on where it was.

    Args:
        announce: told once how many bytes all files have.
        advance: told of bytes as they are sent, or found to be there. Called by several threads.
    Raises: StoreError if the store is unfinished or damaged, or something else is at `url`.

    """
    policy = policy or RetryPolicy()
    plan = read_plan(store)
    store_id = check_opened(store, plan).store_id
    identity, data = _files(store, plan)
    n_bytes = sum(file.n_bytes for file in [*identity, *data])
    announce(n_bytes)
    target = open_target(url, policy)
    try:
        there = target.entries()
        _refuse_another(target, Fetcher(target, policy), store, there, identity, data)
        if PLAN not in there and not target.send_new(PLAN, plan.data):
            raise StoreError(f"{target.url}: somebody else began to push there; push again when they are done")
        there.setdefault(PLAN, Entry(len(plan.data), None))
        for files in (identity, data):
            _send(target, store, files, there, advance)
        refuse_losses(target, [*identity, *data])
        target.show_card(dataset_card(plan, store_id, str(url), n_bytes))
        manifest = (store / MANIFEST).read_bytes()
        if MANIFEST in there:  # the very same, as was seen before: nothing is written into a finished store
            return store_id
        if not target.send_new(MANIFEST, manifest) and Fetcher(target, policy).get(MANIFEST) != manifest:
            raise StoreError(f"{target.url}: somebody else pushed another store there meanwhile; choose another place")
    finally:
        target.close()
    return store_id


def _files(store: Path, plan: Plan) -> tuple[list[FileRecord], list[FileRecord]]:
    """What names the store (plan, commit records, statistics), and the rest but for the MANIFEST."""
    _, hashes = read_manifest(store, plan)
    small = {PLAN: plan.id, **hashes}
    identity = [FileRecord(name, (store / name).stat().st_size, hash_) for name, hash_ in small.items()]
    data = list(checked_records(store, plan, hashes).values())
    for name in plan.metadata_files():  # compared with the plan when the store was opened
        data.append(FileRecord(name, (store / name).stat().st_size, file_sha256(store / name)))
    return identity, data


def _refuse_another(
    target: Target,
    fetcher: Fetcher,
    store: Path,
    there: dict[str, Entry],
    identity: list[FileRecord],
    data: list[FileRecord],
) -> None:
    """Raises: StoreError if the target holds anything but a part of this very store."""
    ours = {file.path for file in [*identity, *data]} | {MANIFEST}
    foreign = sorted(name for name in set(there) - ours - target.own_files if not name.startswith(_IGNORED))

    def compare(name: str) -> None:
        if there[name].n_bytes != (store / name).stat().st_size or fetcher.get(name) != (store / name).read_bytes():
            raise StoreError(f"{target.url}: holds another store (its {name} differs); choose another place")

    in_threads(compare, [name for name in [*(file.path for file in identity), MANIFEST] if name in there], fetcher.stop)
    if foreign:
        raise StoreError(f"{target.url}: holds other files ({foreign[0]}); choose an empty place")


_IGNORED = (f"{STAGING}/", f"{TIMINGS}/")


def refuse_losses(target: Target, files: list[FileRecord]) -> None:
    """Raises: StoreError if something that was sent is not there now: ignored, removed, cut."""
    there = target.entries()
    for file in files:
        if not is_same(there.get(file.path), file):
            raise StoreError(f"{target.url}: did not keep {file.path} as it was sent; push again")


def is_same(entry: Entry | None, file: FileRecord) -> bool:
    """Whether a file that is there has the size, and the hash if the place tells it, that it was recorded with."""
    return entry is not None and entry.n_bytes == file.n_bytes and entry.sha256 in (None, file.sha256)


def _send(target: Target, store: Path, files: list[FileRecord], there: dict[str, Entry], advance: Advance) -> None:
    missing = [file for file in files if not is_same(there.get(file.path), file)]
    advance(sum(file.n_bytes for file in files) - sum(file.n_bytes for file in missing))
    for batch in batches(missing):
        in_threads(lambda file: _check(store, file), batch, threading.Event())
        target.send([(file.path, store / file.path) for file in batch], advance)


def _check(store: Path, file: FileRecord) -> None:
    if file_sha256(store / file.path) != file.sha256:
        raise StoreError(
            f"{store / file.path}: its sha256 is not the recorded one; the store is damaged, nothing was made visible"
        )


def batches(files: list[FileRecord]) -> Iterator[list[FileRecord]]:
    """The files in groups that are sent at once: a hub's commit takes no more."""
    batch: list[FileRecord] = []
    for file in files:
        if batch and (len(batch) == _BATCH_FILES or sum(f.n_bytes for f in [*batch, file]) > _BATCH_BYTES):
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch
