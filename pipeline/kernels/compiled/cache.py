"""Compiled loops on disk. An entry is machine code and is run, so it is looked at before it is believed.

An entry is one file: the sha256 of its key and its bytes, then its bytes. One that is cut, changed, or lies under
another's name is compiled and written again, and Numba never sees it. The folder belongs to this user (or to root) and
nobody else may write into it: $NUMBA_CACHE_DIR/strata-..., else strata's cache folder (docs/decisions/0021).
"""

import hashlib
import logging
import os
import pickle
import platform
import stat
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import caching
from numba.core.serialize import dumps

from strata_sae.stores.errors import StoreError
from strata_sae.stores.format.folders import cache_root, refuse_inside_a_store

log = logging.getLogger(__name__)

_HASH_BYTES = 32


@cache
def folder(version: str) -> Path | None:
    """Where loops of this version are kept; None where that is nowhere: each process then compiles for some seconds."""
    made_with = (version, numba.__version__, llvmlite.__version__, platform.python_version(), platform.machine())
    name = hashlib.sha256(repr(made_with).encode()).hexdigest()[:16]
    try:
        named = os.environ.get("NUMBA_CACHE_DIR")
        place = Path(named).expanduser() / f"strata-{name}" if named else cache_root() / "compiled" / name
        refuse_inside_a_store(place, "NUMBA_CACHE_DIR" if named else "STRATA_CACHE")
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (why := _why_not_trusted(place)) is None:
            return place
    except (OSError, RuntimeError, StoreError) as error:
        why = str(error)
    log.warning("compiled loops are not kept on disk, so every process compiles them again (about 10 s): %s", why)
    return None


def _why_not_trusted(place: Path) -> str | None:
    """Why code from this folder must not be run; None if it may."""
    found = place.stat()
    if found.st_uid not in (os.geteuid(), 0):
        return f"{place} belongs to another user; set NUMBA_CACHE_DIR to a folder of your own"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{place} may be written by others; chmod 700 it, or set NUMBA_CACHE_DIR to another folder"
    return None


class _NoLocator(caching._CacheLocator):
    """What Numba asks of the place of a function; ours is known without asking."""

    def __init__(self, py_file: str) -> None:
        self._py_file = py_file

    def ensure_cache_path(self) -> None:
        pass

    def get_cache_path(self) -> str:
        return ""

    def get_source_stamp(self) -> None:
        return None

    def get_disambiguator(self) -> str:
        return ""

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "_NoLocator":
        return cls(py_file)


class _Results(caching.CompileResultCacheImpl):
    _locator_classes = (_NoLocator,)


class CheckedCache(caching.Cache):
    """Numba's cache of one loop over our files."""

    _impl_class = _Results

    def __init__(self, loop: Callable[..., Any], place: Path) -> None:
        super().__init__(loop)
        self._cache_path = str(place)
        self._cache_file = Entries(place, loop.__qualname__)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled loop for a signature, or None. What another version left and this one cannot build is none."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:
            log.debug("%s: compiled again: %s", self._name, error)
            return None


class Entries:
    """The files of one loop, by key."""

    def __init__(self, place: Path, name: str) -> None:
        self._place, self._name = place, name

    def load(self, key: Any) -> Any:
        """What was saved under a key; None if that is not there, or not whole."""
        path, spelled = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        data = content[_HASH_BYTES:]
        if content[:_HASH_BYTES] != _hash(spelled, data):
            return None
        return pickle.loads(data)  # noqa: S301 - our own bytes, from a folder that only this user or root can write

    def save(self, key: Any, value: Any) -> None:
        """Keep a value; a disk that cannot is no reason to stop."""
        path, spelled = self._path(key)
        data = dumps(value)
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}")
        try:
            draft.write_bytes(_hash(spelled, data) + data)
            draft.replace(path)
        except OSError as error:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            log.debug("%s: not kept: %s", path, error)

    def _path(self, key: Any) -> tuple[Path, bytes]:
        spelled = f"{self._name} {key!r}".encode()
        return self._place / f"{self._name}-{hashlib.sha256(spelled).hexdigest()[:24]}.loop", spelled


def _hash(spelled: bytes, data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(spelled).digest() + data).digest()
