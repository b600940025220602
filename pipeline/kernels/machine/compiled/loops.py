"""How loops are compiled by Numba, kept on disk, and run by several threads.

On disk a loop is machine code that will be run, so a file is checked before it is used: it holds the sha256 of its key
and bytes, then the bytes. A file that is cut, changed, or stored under another name is compiled and written again, and
Numba never sees it. The folder must belong to this user (or to root), and nobody else may write into it:
$NUMBA_CACHE_DIR/strata-..., else strata's cache folder (docs/decisions/0021).
"""

import hashlib
import logging
import os
import pickle
import platform
import stat
import uuid
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar

import llvmlite
import numba
import numpy as np
import torch
from numba.core import base, caching, compiler, types
from numba.core.serialize import dumps
from torch import Tensor

from strata_sae.stores import cache_root, refuse_inside_a_store
from strata_sae.stores.errors import StoreError

log = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Value = TypeVar("Value")

VERSION = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()
"""Of all loops together: machine code holds the loops that its loop calls, so a change of one may change another."""
HASH_BYTES = 32
"""Bytes of the sha256 at the start of a file."""

_pools: dict[int, ThreadPoolExecutor] = {}  # idle threads: to start one takes as long as many of these loops
os.register_at_fork(after_in_child=_pools.clear)  # a forked child has none of its parent's threads


def _compile(fastmath: set[str] | bool = False) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """A decorator that compiles a loop without the GIL, once for each machine and dtype."""

    def decorate(loop: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        # Without the GIL several threads run at once; as in NumPy, a division by 0 gives inf and is not checked for.
        dispatcher = numba.njit(nogil=True, error_model="numpy", fastmath=fastmath)(loop)
        if (place := folder(VERSION)) is not None:
            dispatcher._cache = CheckedCache(loop, place)
        return dispatcher

    return decorate


def over_rows(
    loop: Callable[..., Result], n_rows: int, rows_at_once: int, *arguments: np.ndarray | np.generic | float
) -> list[Result]:
    """Call loop(start, stop, *arguments), which must release the GIL, on stretches that cover all rows.

    As many threads work as PyTorch would use; each takes the next stretch until none is left. A row's result is
    computed by one thread in one order, so the number of threads changes no bit. Returns: what the calls returned, in
    the order of their rows.
    """
    # Stretches are handed out one after the other, not divided beforehand: rows differ in work, cores in speed.
    starts = range(0, n_rows, rows_at_once)
    results: dict[int, Result] = {}
    left = deque(starts)

    def work() -> None:
        while left:
            try:
                start = left.popleft()
            except IndexError:  # another thread was quicker
                return
            results[start] = loop(start, min(start + rows_at_once, n_rows), *arguments)

    n_others = min(torch.get_num_threads(), len(starts)) - 1
    others = [_pool(n_others).submit(work) for _ in range(n_others)]
    try:
        work()
    finally:
        left.clear()  # after an error no thread writes any more once this has returned
        wait(others)
    for other in others:
        other.result()
    return [results[start] for start in sorted(results)]


def array(tensor: Tensor) -> np.ndarray:
    """A CPU tensor's memory as a NumPy array, which loops take; copied only if it is not contiguous."""
    return tensor.detach().contiguous().numpy()


def _pool(n_threads: int) -> ThreadPoolExecutor:
    if n_threads not in _pools:
        _pools[n_threads] = ThreadPoolExecutor(n_threads, thread_name_prefix="compiled")
    return _pools[n_threads]


@cache
def folder(version: str) -> Path | None:
    """Where loops of this version are kept; None where no folder can be used: each process then compiles."""
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


class Entries(Generic[Value]):
    """The files of one loop, by key."""

    def __init__(self, place: Path, name: str) -> None:
        self._place, self._name = place, name

    def load(self, key: Hashable) -> Value | None:
        """What was saved under a key; None if there is none, or its file is not whole."""
        path, spelled = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        data = content[HASH_BYTES:]
        if content[:HASH_BYTES] != _hash(spelled, data):
            return None
        value: Value = pickle.loads(data)  # noqa: S301 - our bytes, in a folder only this user or root can write
        return value

    def save(self, key: Hashable, value: Value) -> None:
        """Keep a value; where the disk cannot, nothing is kept and nothing stops."""
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

    def _path(self, key: Hashable) -> tuple[Path, bytes]:
        spelled = f"{self._name} {key!r}".encode()
        return self._place / f"{self._name}-{hashlib.sha256(spelled).hexdigest()[:24]}.loop", spelled


def _hash(spelled: bytes, data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(spelled).digest() + data).digest()


class _NoLocator(caching._CacheLocator):
    """What Numba asks about the place of a function's cache; CheckedCache sets the place itself."""

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
    def from_function(cls, py_func: Callable[Arguments, Result], py_file: str) -> "_NoLocator":
        return cls(py_file)


class _Results(caching.CompileResultCacheImpl):
    _locator_classes = (_NoLocator,)


class CheckedCache(caching.Cache):
    """Numba's cache of one loop over the files of `Entries`."""

    _impl_class = _Results

    def __init__(self, loop: Callable[Arguments, Result], place: Path) -> None:
        super().__init__(loop)
        self._cache_path = str(place)
        self._cache_file = Entries[tuple[Hashable, ...]](place, loop.__qualname__)

    def load_overload(
        self, sig: tuple[types.Type, ...], target_context: base.BaseContext
    ) -> compiler.CompileResult | None:
        """The compiled loop for a signature. None: there is none, or this version of Numba cannot build it."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:
            log.debug("%s: compiled again: %s", self._name, error)
            return None


compiled = _compile()
compiled_fused = _compile(fastmath={"contract"})
"""A product and a sum may be rounded once, together."""
compiled_any_order = _compile(fastmath={"contract", "reassoc"})
"""And a sum may be split into several: one order for each machine, and rounding errors as small."""
