"""What kind of file system a folder lies on, by the mount table, and what follows from it."""

import os
from pathlib import Path

_MOUNTS = Path("/proc/self/mounts")
_NETWORK_TYPES = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.s3fs"}
)
_INVENTED_INODES = ("fuse", "cifs", "smb", "9p", "afs")
"""Beginnings of the types that may make up an inode number anew once the kernel has forgotten the file."""


def is_safe_to_map(folder: Path) -> bool:
    """Whether a folder lies on a local file system, by its type in the mount table (unknown: yes)."""
    return _file_system_type(folder) not in _NETWORK_TYPES


def is_local(folder: Path) -> bool:
    """Whether only this machine can lock the files of a folder: it lies on a disk of its own (unknown: no)."""
    kind = _file_system_type(folder)
    return bool(kind) and kind not in _NETWORK_TYPES and not kind.startswith(_INVENTED_INODES)


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
