"""Which file a name stood for, so that one can see whether it still stands for that one."""

import os
from pathlib import Path
from typing import NamedTuple

_MOUNTS = Path("/proc/self/mounts")
_NETWORK_TYPES = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.s3fs"}
)
_INVENTED_INODES = ("fuse", "cifs", "smb", "9p", "afs")
"""Beginnings of the types that may make up an inode number anew once the kernel has forgotten the file."""


class Identity(NamedTuple):
    """What tells a file from any other, and from itself after a write, for the price of a `stat`."""

    device: int
    inode: int
    n_bytes: int
    modified_ns: int

    @property
    def written(self) -> tuple[int, int]:
        """What a write changes."""
        return self.n_bytes, self.modified_ns


def identity_of(status: os.stat_result) -> Identity:
    """The identity that a `stat` tells."""
    return Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def is_same(found: Identity, expected: Identity, *, inodes_last: bool) -> bool:
    """Whether both are of one file that nobody wrote to in between; without lasting inode numbers, as far as one can
    tell from size and time.
    """
    return found == expected if inodes_last else found.written == expected.written


def is_safe_to_map(folder: Path) -> bool:
    """Whether a folder lies on a local file system, by its type in the mount table (unknown: yes)."""
    return _file_system_type(folder) not in _NETWORK_TYPES


def inodes_last(folder: Path) -> bool:
    """Whether the files under a folder keep their inode numbers as long as they exist (unknown: yes)."""
    return not _file_system_type(folder).startswith(_INVENTED_INODES)


def _file_system_type(folder: Path) -> str:
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    where = os.path.realpath(folder)
    best, kind = "", ""
    for line in mounts:
        _, point, type_, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, type_
    return kind
