"""A plain folder: a mounted disk, or another place on this one."""

import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.files.filesystem import FileSystem, publish_exclusive
from strata_sae.stores.files.locks import Lease, remove_dead
from strata_sae.stores.files.mounts import inodes_last
from strata_sae.stores.files.places import identity_of
from strata_sae.stores.format.plan import STAGING
from strata_sae.stores.remote.transports import (
    Advance,
    Entry,
    NotFound,
    RangesUnsupported,
    RetryPolicy,
    Unchanged,
    local_folder,
)

_PIECE_BYTES = 4 * 2**20
_PREFIX = "push-"


class Folder:
    """A folder by path; what is being written lies in its `staging/`, which readers ignore."""

    own_files: frozenset[str] = frozenset()

    def __init__(self, url: str, policy: RetryPolicy) -> None:
        folder = local_folder(url)
        assert folder is not None, "a folder's URL, which is why this class was chosen"
        self._root = folder
        self.url = str(self._root)
        self._unchanged = Unchanged()
        self._inodes_last = inodes_last(self._root)
        self._files = FileSystem()
        self._lease: Lease | None = None

    def stream(self, path: str, start: int) -> Iterator[bytes]:
        """See `Source.stream`."""
        descriptor = self._open(path)
        try:
            while piece := _pread(descriptor, _PIECE_BYTES, start, self._root / path):
                start += len(piece)
                yield piece
        finally:
            os.close(descriptor)

    def get_range(self, path: str, offset: int, n_bytes: int) -> bytes:
        """See `Source.get_range`."""
        descriptor = self._open(path)
        try:
            found = identity_of(os.fstat(descriptor))
            self._unchanged.check(path, str(found if self._inodes_last else found.written), self.url)
            data = bytearray()
            while len(data) < n_bytes:
                piece = _pread(descriptor, n_bytes - len(data), offset + len(data), self._root / path)
                if not piece:
                    raise RangesUnsupported(f"{path}: ends {n_bytes - len(data)} bytes too soon")
                data += piece
        finally:
            os.close(descriptor)
        return bytes(data)

    def entries(self) -> dict[str, Entry]:
        """See `Target.entries`."""
        found = {}
        for folder, folders, names in os.walk(self._root):
            inside = Path(folder).relative_to(self._root)
            folders[:] = [name for name in folders if str(inside / name) != STAGING]
            for name in names:
                found[str(inside / name)] = Entry(os.lstat(Path(folder, name)).st_size, None)
        return found

    def send(self, files: list[tuple[str, Path]], advance: Advance) -> None:
        """See `Target.send`."""
        touched = {self._root}
        for path, local in files:
            draft = self._drafts() / "file"
            self._copy(local, draft, advance)
            final = self._root / path
            touched |= self._make_folders(final.parent)
            self._files.rename(draft, final)
        for folder in sorted(touched):
            self._files.sync_folder(folder)

    def send_new(self, path: str, data: bytes) -> bool:
        """See `Target.send_new`."""
        self._make_folders((self._root / path).parent)
        return publish_exclusive(self._files, self._drafts() / "new", self._root / path, data)

    def show_card(self, card: str) -> None:
        """A folder has no page."""

    def close(self) -> None:
        """See `Target.close`."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def _drafts(self) -> Path:
        if self._lease is None:
            self._root.mkdir(parents=True, exist_ok=True)
            self._files.make_folder(self._root / STAGING)
            remove_dead(self._files, self._root / STAGING, _PREFIX)
            self._lease = Lease(self._files, self._root / STAGING / f"{_PREFIX}{uuid.uuid4().hex[:12]}")
        return self._lease.folder

    def _make_folders(self, folder: Path) -> set[Path]:
        made = {folder}
        if folder != self._root and not folder.is_dir():
            made |= self._make_folders(folder.parent)
            self._files.make_folder(folder)
        return made

    def _copy(self, source: Path, target: Path, advance: Advance) -> None:
        self._files.unlink(target)
        descriptor = self._files.create(target)
        try:
            with source.open("rb") as file:
                while piece := file.read(_PIECE_BYTES):
                    self._files.write(descriptor, piece)
                    advance(len(piece))
            self._files.sync(descriptor)
        finally:
            self._files.close(descriptor)

    def _open(self, path: str) -> int:
        try:
            descriptor = os.open(self._root / path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound("there is no such file") from None
        except OSError as error:
            raise StoreError(f"{self._root / path}: cannot be read ({explain(error)})") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise StoreError(f"{self._root / path}: not a plain file")
        return descriptor


def _pread(descriptor: int, n_bytes: int, offset: int, where: Path) -> bytes:
    try:
        return os.pread(descriptor, n_bytes, offset)
    except OSError as error:
        raise StoreError(f"{where}: cannot be read at byte {offset} ({explain(error)})") from None
