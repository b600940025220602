"""Files that are whole or absent, whatever dies: written beside their place, flushed to the disk, then renamed.

Stores are written through `FileSystem`, step by step, so that tests can record, cut or fail each step.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STAGED = ".staged-"
"""Prefix of what is not yet published; left behind by a kill, and may be deleted at any time."""


class FileSystem:
    """The local file system, one step a method. Nothing here retries: a failed fsync has lost the page it was for."""

    def make_folder(self, path: Path) -> None:
        """Create one folder; an existing one is left alone."""
        path.mkdir(exist_ok=True)

    def create(self, path: Path) -> int:
        """Descriptor of a new, empty file. Raises FileExistsError if the name is taken."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def write(self, descriptor: int, data: bytes | memoryview) -> None:
        """Append all of `data`."""
        rest = memoryview(data).cast("B")
        while rest.nbytes:
            rest = rest[os.write(descriptor, rest) :]

    def sync(self, descriptor: int) -> None:
        """Make a file's bytes survive a power cut."""
        os.fsync(descriptor)

    def sync_path(self, path: Path) -> None:
        """Make the bytes of a file that another process wrote survive a power cut."""
        sync(path, os.O_NOFOLLOW)

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder survive a power cut."""
        sync(path, os.O_DIRECTORY)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name, atomically. Raises FileExistsError if the name is taken."""
        try:
            os.link(source, target)
        except FileExistsError:
            raise
        except OSError:
            # On a network file system the reply can be lost although the link was made; the link count tells.
            if os.stat(source).st_nlink != 2:
                raise

    def rename(self, source: Path, target: Path) -> None:
        """Move a file or folder, atomically."""
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a name; one that is gone already is no error."""
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()


def write_new(files: FileSystem, path: Path, data: bytes) -> None:
    """Create a file with these bytes and make the bytes durable; the caller makes the name durable (`sync_folder`)."""
    descriptor = files.create(path)
    try:
        files.write(descriptor, data)
        files.sync(descriptor)
    finally:
        files.close(descriptor)


def write_pieces(files: FileSystem, path: Path, pieces: Iterable[bytes | memoryview], limit: int) -> tuple[int, str]:
    """Create a file of what comes, and make its bytes durable. Returns: their number and their sha256.

    After `limit` bytes no further piece is asked for.
    """
    digest, n_bytes = hashlib.sha256(), 0
    descriptor = files.create(path)
    try:
        for piece in pieces:
            files.write(descriptor, piece)
            digest.update(piece)
            n_bytes += len(piece)
            if n_bytes > limit:
                break
        files.sync(descriptor)
    finally:
        files.close(descriptor)
    return n_bytes, digest.hexdigest()


def publish_exclusive(files: FileSystem, draft: Path, path: Path, data: bytes) -> bool:
    """Make `path` appear with all of its bytes, durably, unless it is there. Returns whether this call made it.

    `draft`: a free name in a folder of the same file system that the next recovery removes.
    """
    write_new(files, draft, data)
    try:
        files.link(draft, path)
        won = True
    except FileExistsError:
        won = False
    files.unlink(draft)
    files.sync_folder(path.parent)
    return won


def remove_tree(files: FileSystem, folder: Path) -> None:
    """Remove a folder and what is in it; what another process removes meanwhile is no error."""
    if not folder.is_dir() or folder.is_symlink():
        return
    with suppress(FileNotFoundError):
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                remove_tree(files, Path(entry.path))
            else:
                files.unlink(Path(entry.path))
        files.remove_folder(folder)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace or create a file atomically and durably; its folder is made if missing."""
    make_folder(path.parent)
    staged = staging_path(path)
    try:
        with naming(path):
            write_new(FileSystem(), staged, data)
        os.rename(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name into an OSError that has none, as that of a write to a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def make_folder(path: Path) -> None:
    """Create a folder and its parents, so that their names survive a power cut; what exists is left alone."""
    for folder in reversed([path, *path.parents]):
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            sync(folder.parent)


def staging_path(path: Path) -> Path:
    """A fresh name in the same folder, so that the final rename cannot cross a file system."""
    return path.with_name(f"{STAGED}{path.name}-{uuid.uuid4().hex}")


def publish_folder(staged: Path, target: Path) -> None:
    """Make a staged folder appear under its final name, whole and durable. `target` must not exist."""
    for file in staged.iterdir():
        sync(file)
    sync(staged)
    os.rename(staged, target)
    sync(target.parent)


def publish_new_folder(staged: Path, target: Path) -> None:
    """As `publish_folder`; where it fails, nothing stands under the name, so that the same command can be run again."""
    try:
        publish_folder(staged, target)
    except OSError:
        if not staged.exists():  # the folder has its name, and the list of names is not on the disk
            os.rename(target, staged)
        raise


def remove_folder(path: Path) -> None:
    """Delete a folder so that a kill never leaves half of it under its name."""
    doomed = staging_path(path)
    os.rename(path, doomed)
    sync(path.parent)
    remove_tree(FileSystem(), doomed)


def remove_staged(folder: Path) -> None:
    """Delete what a killed writer left unpublished directly inside a folder."""
    for leftover in folder.glob(f"{STAGED}*"):
        if leftover.is_dir():
            remove_tree(FileSystem(), leftover)
        else:
            leftover.unlink()


def sync(path: Path, flags: int = 0) -> None:
    """Flush a file, or a folder's list of names, to the disk. `flags`: further ones of `os.open`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def missing_space(folder: Path, needed_bytes: int) -> str | None:
    """`needs 20 more bytes and its disk has 10 free`, if that is so of the disk of a folder; None if it has room."""
    free = shutil.disk_usage(folder).free
    return f"needs {needed_bytes:,} more bytes and its disk has {free:,} free" if needed_bytes > free else None
