"""Folders are deleted whole: one loses its name first, so that what a kill leaves says what it is, and can be deleted.

Only files that the caller knows are removed. Links are never followed, and never removed: they count as strangers.
"""

import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.files.filesystem import FileSystem

_DOOMED = re.compile(r"\.deleting-(.+)-[0-9a-f]{12}", re.DOTALL)
_SHOWN = 10
"""Strangers that an error names: as many lines as can be read at a glance."""

IsOurs = Callable[[str], bool]
"""Whether a path within the folder, with a slash at the end of a folder's, is one that this program makes."""


class Content(NamedTuple):
    """What is in a folder."""

    n_files: int
    n_bytes: int
    """Of plain files, as `stat` tells their sizes."""


def content_of(folder: Path) -> Content:
    """The files of a folder and their bytes; nothing outside of it is looked at."""
    sizes = [entry.stat(follow_symlinks=False).st_size for _, entry in _walk(folder) if not _is_folder(entry)]
    return Content(len(sizes), sum(sizes))


def refuse_unnamed(folder: Path) -> None:
    """Raises: StoreError for a link, and for `.` or `a/..`: deletion begins with the folder's own name."""
    if folder.is_symlink():
        raise StoreError(f"{folder}: is a link; name the folder that it leads to")
    if folder.name in ("", ".."):
        raise StoreError(f"{folder}: does not end in the folder's own name; give that, from outside of the folder")


def refuse_strangers(folder: Path, is_ours: IsOurs) -> None:
    """Raises: StoreError naming what in a folder is not ours: other files and folders, and every link."""
    found = sorted(_told(name, entry) for name, entry in _walk(folder) if not _is_known(name, entry, is_ours))
    if found:
        rest = f"\n  and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
        raise StoreError(
            f"{folder}: not deleted, since it holds what this program did not make there; move it elsewhere first:\n  "
            + "\n  ".join(found[:_SHOWN])
            + rest
        )


def doom(files: FileSystem, folder: Path, parent: Path | None = None) -> Path:
    """Take a folder's name from it, durably; it waits for `remove` under a name that says what it was.

    parent: where it waits, on the same disk; beside itself if not given.
    """
    doomed = (parent or folder.parent) / f".deleting-{folder.name}-{uuid.uuid4().hex[:12]}"
    files.rename(folder, doomed)
    files.sync_folder(folder.parent)
    files.sync_folder(doomed.parent)
    return doomed


def half_deleted(parent: Path, name: str | None = None) -> list[tuple[str, Path]]:
    """(name that it had, where it lies) of the folders under `parent` whose deletion was interrupted.

    name: only those of this name.
    """
    if not parent.is_dir():
        return []
    found = [(match[1], path) for path in sorted(parent.iterdir()) if (match := _DOOMED.fullmatch(path.name))]
    return [(was, path) for was, path in found if _is_plain_folder(path) and name in (None, was)]


def remove(files: FileSystem, doomed: Path, is_ours: IsOurs, last: str = "") -> None:
    """Remove a folder and what of it is ours.

    Args:
        last: a file of it that goes last, since it says which files are ours.
    Raises: StoreError if something else has come into it meanwhile, which then stays.

    """
    for name, entry in _walk(doomed, folders_last=True):
        if _is_folder(entry):
            _remove_folder(files, doomed / name, is_ours)
        elif name != last and _is_known(name, entry, is_ours):
            files.unlink(doomed / name)
    refuse_strangers(doomed, is_ours)
    if last:
        files.unlink(doomed / last)
    _remove_folder(files, doomed, is_ours)
    files.sync_folder(doomed.parent)


def _remove_folder(files: FileSystem, folder: Path, is_ours: IsOurs) -> None:
    try:
        files.remove_folder(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        if any(folder.iterdir()):
            return  # what is left in it is told in the end
        raise StoreError(f"{folder}: cannot be removed ({explain(error)})") from None


def _walk(folder: Path, prefix: str = "", *, folders_last: bool = False) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(path within the folder, entry) of all in it; what another process removes meanwhile is left out."""
    try:
        entries = sorted(os.scandir(folder / prefix), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if not folders_last:
            yield name, entry
        if _is_folder(entry):
            yield from _walk(folder, f"{name}/", folders_last=folders_last)
        if folders_last:
            yield name, entry


def _is_known(name: str, entry: os.DirEntry[str], is_ours: IsOurs) -> bool:
    if _is_folder(entry):
        return is_ours(f"{name}/")
    return entry.is_file(follow_symlinks=False) and is_ours(name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _told(name: str, entry: os.DirEntry[str]) -> str:
    shown = name if name.isprintable() else ascii(name)  # a name can hold what a terminal obeys
    if entry.is_symlink():
        return f"{shown} (a link)"
    return f"{shown}/" if _is_folder(entry) else shown
