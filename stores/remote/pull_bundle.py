"""Fetching a bundle: every file is checked as it arrives, and nothing appears before all of them were looked at."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.files.canonical import read_plain
from strata_sae.stores.files.filesystem import FileSystem, remove_tree
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.format.folders import refuse_inside_a_store
from strata_sae.stores.remote.bundles import Bundle, parse_bundle
from strata_sae.stores.remote.fetching import Fetcher, PullFolder, local_errors
from strata_sae.stores.remote.pull import alone, drop_another, fetch_data
from strata_sae.stores.remote.push_bundle import check_file
from strata_sae.stores.remote.transports import FOR_SAES, Advance, RetryPolicy, local_folder, open_source

_ID = re.compile(r"[0-9a-f]{64}")


class RemoteBundle:
    """A bundle at a URL, whose manifest was fetched and checked."""

    def __init__(self, fetcher: Fetcher, bundle: Bundle) -> None:
        self.url, self.bundle, self._fetcher = fetcher.url, bundle, fetcher

    def pull(
        self,
        out: Path,
        *,
        work: Path,
        check: Callable[[Path], None],
        announce: Callable[[int], None] = lambda n_bytes: None,
        advance: Advance = lambda n_bytes: None,
        files: FileSystem | None = None,
    ) -> None:
        """Fetch it into the new folder `out`, which appears whole or not at all; an interrupted pull goes on.

        Args:
            work: a folder on the same disk, in which the files are collected.
            check: looks at the whole folder before it appears; it raises where something is wrong.
        Raises: StoreError if a file is not there, damaged, or `out` is something else.

        """
        files, manifest = files or FileSystem(), self.bundle.data
        refuse_inside_a_store(out, "pull")
        if _is_pulled(out, self.bundle):
            return
        wanted = list(self.bundle.files.values())
        announce(sum(file.n_bytes for file in wanted))
        with local_errors(work):
            work.parent.mkdir(parents=True, exist_ok=True)
        with alone(work), local_errors(work):
            drop_another(files, work, work / out.name / self.bundle.manifest, manifest)
            pulled = PullFolder(files, work, out.name)
            pulled.put(self.bundle.manifest, manifest)
            fetch_data(self._fetcher, pulled, wanted, advance)
            try:
                check(pulled.store)
            except Exception:  # it came as it was sent, so nothing that is fetched again would help
                remove_tree(files, work)
                raise
            _publish(files, pulled.store, out)
            remove_tree(files, work)
            files.sync_folder(work.parent)


def open_bundle(
    url: str | Path, manifest: str, *, expected_id: str | None = None, policy: RetryPolicy | None = None
) -> RemoteBundle:
    """Fetch the manifest at `url`. Raises: StoreError if there is none, or its hash is not `expected_id`."""
    policy = policy or RetryPolicy()
    if expected_id is not None and _ID.fullmatch(expected_id) is None:
        raise StoreError(f"expected id {expected_id[:80]!r}: an id is 64 hex digits, as push prints it")
    if (folder := local_folder(url)) is not None and not folder.is_dir():
        raise StoreError(f"{folder}: no such folder")
    fetcher = Fetcher(open_source(url, policy, FOR_SAES), policy)
    try:
        data = fetcher.get(manifest)
    except StoreError as error:
        raise StoreError(f"{fetcher.url}: no pushed SAE or run can be read there ({error})") from None
    if expected_id not in (None, sha256(data)):
        raise StoreError(f"{fetcher.url}: holds {sha256(data)}, not the expected {expected_id}")
    return RemoteBundle(fetcher, parse_bundle(manifest, data, f"{fetcher.url}/{manifest}"))


def _is_pulled(out: Path, bundle: Bundle) -> bool:
    """Whether `out` is this very bundle. Raises: StoreError if it is anything else but an empty folder."""
    if not out.exists() and not out.is_symlink():
        return False
    if out.is_dir() and not out.is_symlink() and not any(out.iterdir()):
        return False
    try:
        if read_plain(out / bundle.manifest) != bundle.data:
            raise StoreError(f"{out}: is another SAE or run; choose another folder")
    except FileNotFoundError:
        raise StoreError(f"{out}: is there, is no empty folder and was not pulled; choose another folder") from None
    for file in bundle.files.values():
        try:
            check_file(out / file.path, file)
        except StoreError:
            raise StoreError(
                f"{out}: was pulled before, and {file.path} is not what it was then; choose another folder"
            ) from None
    return True


def _publish(files: FileSystem, pulled: Path, out: Path) -> None:
    for folder, _, _ in os.walk(pulled, topdown=False):
        files.sync_folder(Path(folder))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        files.rename(pulled, out)
    except OSError as error:
        raise StoreError(f"{out}: cannot be made ({explain(error)}); everything is in {pulled}") from None
    files.sync_folder(out.parent)
