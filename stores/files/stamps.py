"""What a file was when its bytes were hashed, so that they need not be hashed again while it is still that file."""

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import canonical_json, parse_canonical
from strata_sae.stores.files.identity import Identity, identity_of

_MAX_BYTES = 4096
_PIECE_BYTES = 4 * 2**20


class Stamp(NamedTuple):
    """The sha256 of a file's bytes, and the file that had them.

    A rename, a link, a new owner or mode, and every write set `changed_ns` (ctime), and no program can set it back:
    that a file under this name has all of this and other bytes takes a clock that is set back, or a failing disk,
    whose damage the checksum of a chunk finds.
    """

    sha256: str
    identity: Identity
    changed_ns: int


def stamp_of(path: Path, sha256: str) -> Stamp:
    """The stamp of the file that lies there now, whose bytes are known. Raises: OSError."""
    return _stamp(os.lstat(path), sha256)


def hashed(path: Path, sha256: str) -> tuple[Stamp, str]:
    """The stamp that a file has if its hash is `sha256`, and the hash it has. Raises: OSError."""
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        before = os.fstat(descriptor)
        offset = 0
        while stat.S_ISREG(before.st_mode) and (piece := os.pread(descriptor, _PIECE_BYTES, offset)):
            digest.update(piece)
            offset += len(piece)
    finally:
        os.close(descriptor)
    # The stamp is of the time before: whoever writes meanwhile changes what is compared with it.
    return _stamp(before, sha256), digest.hexdigest()


def read_stamp(path: Path) -> Stamp | None:
    """The stamp in a file; None if there is none, or none that can be read: then the bytes are hashed again."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        value = parse_canonical(os.pread(descriptor, _MAX_BYTES, 0), path)
        numbers = [int(value[key]) for key in (*Identity._fields, "changed_ns")]
        return Stamp(str(value["sha256"]), Identity(*numbers[:-1]), numbers[-1])
    except (OSError, StoreError, KeyError, TypeError, ValueError):
        return None
    finally:
        os.close(descriptor)


def write_stamp(descriptor: int, stamp: Stamp) -> None:
    """Write it to an open file, in the place of what is there. Where it cannot be written, or a power cut takes it,
    the bytes are hashed once more.
    """
    data = canonical_json({"sha256": stamp.sha256, **stamp.identity._asdict(), "changed_ns": stamp.changed_ns})
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)


def _stamp(status: os.stat_result, sha256: str) -> Stamp:
    return Stamp(sha256, identity_of(status), status.st_ctime_ns)
