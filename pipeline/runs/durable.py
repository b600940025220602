"""Files that are whole or absent, whatever dies: written beside their place, flushed to the disk, then renamed."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STAGED = ".staged-"
"""Prefix of what is not yet published; left behind by a kill, deletable at any time."""


def write_bytes(path: Path, data: bytes) -> None:
    """Replace or create a file atomically and durably; its folder is made if missing."""
    make_folder(path.parent)
    staged = staging_path(path)
    try:
        with naming(path), open(staged, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts the file's name into an OSError that has none: a full disk is found by write, which knows no names."""
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


def remove_folder(path: Path) -> None:
    """Delete a folder so that a kill never leaves half of it under its name."""
    doomed = staging_path(path)
    os.rename(path, doomed)
    sync(path.parent)
    shutil.rmtree(doomed)


def remove_staged(folder: Path) -> None:
    """Delete what a killed writer left unpublished directly inside a folder."""
    for leftover in folder.glob(f"{STAGED}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
