"""Files that a run reads: their sha256, remembered for as long as a file stays as it was, and how they differ."""

import os
import re
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from strata_sae.stores import cache_root
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.hashing import descriptor_sha256, sha256

SETTLED_NS = 2_000_000_000
"""A file that was written this shortly before it was hashed may be written again without a change of its times: some
file systems count them in steps of two seconds. What was hashed so early is not remembered."""
SMALL_BYTES = 2**16
"""Reading a smaller file again costs no more than looking up what is remembered of it."""
_SHA256_DIGITS = 64
_ENTRY_BYTES = 2 * (_SHA256_DIGITS + 1)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_SECONDS = 10.0
SHOWN = 5
"""Differences that a message names; of more it says how many."""


class FileState(NamedTuple):
    """What changes when a file does, whether its content is looked at or not."""

    n_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> "FileState":
        """From what `os.stat` found."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


class Comparison(NamedTuple):
    """Inputs as they are now beside what a plan recorded of them: a line for each that differs, or cannot be told."""

    differences: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @classmethod
    def of(cls, parts: Iterable["Comparison"]) -> "Comparison":
        """All parts together, in their order."""
        kept = list(parts)
        return cls(
            tuple(line for part in kept for line in part.differences),
            tuple(line for part in kept for line in part.unknown),
        )

    def under(self, where: str) -> "Comparison":
        """The same, each line with the place it belongs to in front."""
        return Comparison(*(tuple(f"{where}: {line}" for line in lines) for lines in self))


def shown(lines: tuple[str, ...]) -> str:
    """The first lines, and how many there are beyond them."""
    more = f"; and {len(lines) - SHOWN:,} more" if len(lines) > SHOWN else ""
    return "; ".join(lines[:SHOWN]) + more


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file; remembered under the cache root, and used while the file's `FileState` is the same.

    Safe under several processes. A remembered hash that is damaged, or belongs to another file, is not used.
    Raises: OSError.
    """
    resolved = os.path.realpath(path)
    with open(resolved, "rb") as file:
        before = FileState.of(os.fstat(file.fileno()))
        if before.n_bytes >= SMALL_BYTES and (known := _remembered(resolved, before)):
            return known
        began_ns = time.time_ns()
        digest = descriptor_sha256(file.fileno())
        after = FileState.of(os.fstat(file.fileno()))
    settled = began_ns - max(before.mtime_ns, before.ctime_ns) > SETTLED_NS
    if before == after and settled and before.n_bytes >= SMALL_BYTES:
        _remember(resolved, before, digest)
    return digest


def compare_file(name: str, recorded: str | None, path: Path) -> Comparison:
    """A file beside the sha256 recorded of it, which is None where there was no such file."""
    try:
        now = file_sha256(path)
    except FileNotFoundError:
        return Comparison(unknown=() if recorded is None else (f"{name} is not there",))
    except OSError as error:
        return Comparison(unknown=(f"{name} cannot be read ({error.strerror})",))
    if recorded is None:
        return Comparison((f"{name}: was absent, is there",))
    return Comparison() if now == recorded else Comparison((f"{name}: sha256 was {recorded[:12]}, is {now[:12]}",))


def compare_commit(kind: str, name: str, revision: str | None, recorded: str) -> Comparison:
    """A `dataset` or `model` of the hub beside the commit recorded of it. Nothing is downloaded."""
    now = revision
    if revision is None or not _COMMIT.fullmatch(revision):
        import huggingface_hub

        try:
            found = huggingface_hub.HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=_HUB_SECONDS)
        except Exception as error:  # HTTP, network and offline errors share no base class
            return Comparison(unknown=(f"the hub does not say which commit {name} is at ({type(error).__name__})",))
        now = found.sha
    return Comparison() if now == recorded else Comparison((f"{name}: commit was {recorded}, is {now}",))


def forget() -> None:
    """Forget every hash, so that each file is read anew."""
    with suppress(StoreError, FileNotFoundError, NotADirectoryError):
        for entry in _folder().iterdir():
            entry.unlink(missing_ok=True)


def _folder() -> Path:
    """Raises: StoreError where there is no home folder: then nothing is remembered."""
    return cache_root() / "inputs"


def _remembered(path: str, state: FileState) -> str | None:
    try:
        with open(_entry(path), "rb") as file:
            data = file.read(_ENTRY_BYTES + 1)
    except (OSError, StoreError):
        return None
    known = data[:_SHA256_DIGITS]
    return known.decode("ascii") if data == _content(path, state, known) else None


def _remember(path: str, state: FileState, digest: str) -> None:
    with suppress(OSError, StoreError):  # a cache that cannot be written costs time, no more
        entry = _entry(path)
        draft = entry.with_name(f".{entry.name}-{uuid.uuid4().hex}")
        entry.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_bytes(_content(path, state, digest.encode("ascii")))
            os.replace(draft, entry)
        finally:
            draft.unlink(missing_ok=True)


def _entry(path: str) -> Path:
    return _folder() / sha256(os.fsencode(path))


def _content(path: str, state: FileState, digest: bytes) -> bytes:
    """An entry: the hash of the file, and a hash of all that it holds for. A damaged or exchanged one is no other's."""
    return digest + b"\n" + sha256(repr((os.fsencode(path), *state, digest)).encode()).encode() + b"\n"
