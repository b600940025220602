"""Answers of language models on the disk: appended as they come, found again by the hash of what was asked.

Each process writes a file of its own, so no lock is needed; all files are read when the folder is opened.
"""

import os
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, as_int, as_object, as_text, canonical_json, parse_json
from strata_sae.stores.files.filesystem import make_folder, naming, sync
from strata_sae.stores.files.hashing import sha256

Ending = Literal["whole", "cut", "refused"]
"""How an answer ended: by itself; at the limit of tokens; refused, by the model or a filter."""
MOST_LINE_BYTES = 32 * 2**20
"""JSON takes up to six bytes for one of an answer, which has 4 MiB at most."""


class Kept(NamedTuple):
    """An answer as the server gave it."""

    text: str
    ending: Ending
    prompt_tokens: int
    """By the server's count; 0: it gave none."""
    answer_tokens: int
    ms: int
    """From the request to the whole answer."""


class Answers:
    """The answers in a folder, and a file of this process's own beside them. Several threads may use it at once."""

    def __init__(self, folder: Path) -> None:
        """Reads what is there. Raises: CheckpointError for a file with a damaged line."""
        self._folder = folder
        self._kept: dict[str, Kept] = {}
        for path in sorted(folder.glob("*.jsonl")):
            for key, kept in _lines_of(path).items():
                self._kept.setdefault(key, kept)
        self._descriptor: int | None = None
        self._path = folder / f"{uuid.uuid4().hex}.jsonl"
        self._n_bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> Kept | None:
        """The answer to a request, by `Request.key()`; None: it has none yet."""
        return self._kept.get(key)

    def keep(self, key: str, kept: Kept) -> None:
        """Write an answer; when this returns it is on the disk. Raises: OSError."""
        line = _line_of(key, kept)
        with self._lock, naming(self._path):
            descriptor = self._opened()
            try:
                rest = memoryview(line)
                while rest.nbytes:
                    rest = rest[os.write(descriptor, rest) :]
                os.fsync(descriptor)
            except OSError:
                with suppress(OSError):  # no half of a line stands before a whole one
                    os.ftruncate(descriptor, self._n_bytes)
                raise
            self._n_bytes += len(line)
            self._kept[key] = kept

    def close(self) -> None:
        """Close this process's file."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _opened(self) -> int:
        if self._descriptor is None:
            make_folder(self._folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o644)
            sync(self._folder)
        return self._descriptor


def _line_of(key: str, kept: Kept) -> bytes:
    values: dict[str, Json] = {"key": key, **kept._asdict()}
    return canonical_json({**values, "sha256": sha256(canonical_json(values))})


def _lines_of(path: Path) -> dict[str, Kept]:
    """The answers in a file, by key. A last line without an end is what a kill left, and is dropped."""
    found: dict[str, Kept] = {}
    number = 0
    with path.open("rb") as file:
        while line := file.readline(MOST_LINE_BYTES + 1):
            number += 1
            if len(line) > MOST_LINE_BYTES or not line.endswith(b"\n"):
                if file.read(1):
                    raise _damaged(path, number)
                break
            try:
                key, kept = _read(line)
            except (ValueError, KeyError, StoreError):
                raise _damaged(path, number) from None
            found.setdefault(key, kept)
    return found


def _damaged(path: Path, number: int) -> CheckpointError:
    return CheckpointError(
        f"{path}: line {number} is damaged or was edited; delete that line, and what it answered is asked again"
    )


def _read(line: bytes) -> tuple[str, Kept]:
    """Raises: ValueError, KeyError or StoreError for a line that `_line_of` has not written."""
    values = as_object(parse_json(line, "answers", MOST_LINE_BYTES))
    key, text, ending = (as_text(values[name]) for name in ("key", "text", "ending"))
    counts = [as_int(values[name]) for name in ("prompt_tokens", "answer_tokens", "ms")]
    kept = Kept(text, _ENDINGS[ending], *counts)
    if line != _line_of(key, kept):
        raise ValueError("another line than its hash says")
    return key, kept


_ENDINGS: dict[str, Ending] = {"whole": "whole", "cut": "cut", "refused": "refused"}
