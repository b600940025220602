"""Sending a bundle: its files, then its manifest, so that a half bundle is never seen."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.files.filesystem import write_bytes
from strata_sae.stores.files.hashing import file_sha256, sha256
from strata_sae.stores.format.plan import STAGING
from strata_sae.stores.format.records import FileRecord
from strata_sae.stores.remote.bundles import Bundle
from strata_sae.stores.remote.fetching import Fetcher
from strata_sae.stores.remote.push import batches, is_same, refuse_losses
from strata_sae.stores.remote.transports import (
    FOR_SAES,
    Advance,
    Entry,
    RangesUnsupported,
    RetryPolicy,
    Target,
    open_target,
)


def push_bundle(
    bundle: Bundle,
    local: Mapping[str, Path],
    url: str | Path,
    *,
    pages: Mapping[str, bytes],
    front: bytes,
    policy: RetryPolicy | None = None,
    announce: Callable[[int], None] = lambda n_bytes: None,
    advance: Advance = lambda n_bytes: None,
) -> None:
    """Send a bundle: its files, its pages, and last its manifest.

    Files that are there with the right bytes are not sent again, so an interrupted push goes on where it was.

    Args:
        local: path in the bundle -> where the file lies here.
        pages: files for people, which the manifest does not list, since an owner may edit them: README.md and its
            pictures. Those that are there are left as they are.
        front: what the front page of a place that has one is to say, unless it says something already.
    Raises: StoreError if something else is at `url`, or a file changed since it was recorded.

    """
    policy = policy or RetryPolicy()
    files = list(bundle.files.values())
    announce(sum(file.n_bytes for file in files))
    target = open_target(url, policy, FOR_SAES)
    try:
        there, fetcher = target.entries(), Fetcher(target, policy)
        is_finished = _holds_it(target, fetcher, bundle, there, set(pages))
        missing = [file for file in files if not _is_there(fetcher, there.get(file.path), file, is_finished)]
        advance(sum(file.n_bytes for file in files) - sum(file.n_bytes for file in missing))
        for batch in batches(missing):
            for file in batch:
                check_file(local[file.path], file)
            target.send([(file.path, local[file.path]) for file in batch], advance)
        refuse_losses(target, files)
        _send_pages(target, {name: page for name, page in pages.items() if name not in there})
        target.show_card(front.decode())
        if is_finished:  # nothing is written into a finished place
            return
        if not target.send_new(bundle.manifest, bundle.data) and fetcher.get(bundle.manifest) != bundle.data:
            raise StoreError(f"{target.url}: somebody else pushed something else there meanwhile; choose another place")
    finally:
        target.close()


def _holds_it(target: Target, fetcher: Fetcher, bundle: Bundle, there: Mapping[str, Entry], pages: set[str]) -> bool:
    """Whether this very bundle was pushed there before. Raises: StoreError if anything else was."""
    if bundle.manifest in there and (found := fetcher.get(bundle.manifest)) != bundle.data:
        raise StoreError(
            f"{target.url}: holds another SAE or run ({sha256(found)[:12]}, and this is {bundle.id[:12]}); choose "
            f"another folder or revision"
        )
    known = {*bundle.files, bundle.manifest, *pages, *target.own_files}
    if foreign := sorted(name for name in set(there) - known if not name.startswith(f"{STAGING}/")):
        raise StoreError(f"{target.url}: holds other files ({foreign[0]}); choose an empty folder or revision")
    return bundle.manifest in there


def _is_there(fetcher: Fetcher, entry: Entry | None, file: FileRecord, is_finished: bool) -> bool:
    """Whether a file need not be sent. Where the place tells no hash, an unfinished push's file is read to know."""
    if entry is None or not is_same(entry, file):
        return False
    if entry.sha256 is not None or is_finished:
        return True
    digest = hashlib.sha256()
    try:
        for piece in fetcher.pieces(file.path, file.n_bytes):
            digest.update(piece)
    except RangesUnsupported:
        return False
    return digest.hexdigest() == file.sha256


def check_file(path: Path, file: FileRecord) -> None:
    """Hold a file against its record. Raises: StoreError if it is not what it was when the manifest was made."""
    try:
        same = path.stat().st_size == file.n_bytes and file_sha256(path) == file.sha256
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({explain(error)}); nothing was made visible") from None
    if not same:
        raise StoreError(f"{path}: changed while it was pushed; nothing was made visible, push again")


def _send_pages(target: Target, pages: Mapping[str, bytes]) -> None:
    if not pages:
        return
    with TemporaryDirectory() as folder:
        for name, page in pages.items():
            write_bytes(Path(folder, name), page)
        target.send([(name, Path(folder, name)) for name in pages], lambda n_bytes: None)
