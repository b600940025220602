"""The units that are missing, one after the other to each of many processes, and each unit to one of them.

A unit is taken by a claim on its name (stores/files/claims.py). What a process looks at to take one does not grow with
the store: it walks over its own share, and lists the names of all commits only where it meets another process.
"""

import os
import re
import secrets
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from strata_sae.stores.files.claims import Claim, claim
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.format.commits import commit_folders, commit_path, committed_units, key_name
from strata_sae.stores.format.plan import STAGING, Plan
from strata_sae.stores.writing.failures import Failures, check_run, failed_units

_PATIENCE_SECONDS = 60.0
"""Of waiting for the units of others; and never less than so many times the longest that this process has filled:"""
_SLOWER = 3
_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.05, 5.0
"""Between two looks at what others hold: first often, then seldom."""
FINISHING = "finish"
"""The name in the staging folder that is claimed by the process that finishes the store."""
_CLAIM = re.compile(rf"(?:(\d{{6}})(?:\.again)?|{FINISHING})((?:\.lock)+)")


def is_claim(lock: str) -> bool:
    """Whether a file in the staging folder is a claim, or the right to remove one, by its name."""
    return _CLAIM.fullmatch(lock) is not None


def claimed_unit(lock: str) -> int | None:
    """The unit whose claim a file in the staging folder is, by its name."""
    found = _CLAIM.fullmatch(lock)
    return int(found[1]) if found and found[1] and found[2] == ".lock" else None


class TakenUnit:
    """A unit that is to be filled by this process alone, until one of `done`, `failed`, `give_back` is called.

    Any thread may call them; the first call counts, later ones do nothing.
    """

    def __init__(self, number: int, held: Claim, ended: "Callable[[TakenUnit, str | None], None]") -> None:
        self.number = number
        self._held, self._ended = held, ended
        self._first = threading.Lock()

    def done(self) -> None:
        """It is committed."""
        self._end(None)

    def failed(self, reason: str) -> None:
        """It could not be filled: count that, with the reason, in one line; any process may try again."""
        self._end(reason)

    def give_back(self) -> None:
        """It is not filled, which is nobody's fault: the process was asked to stop."""
        self._end(None)

    def _end(self, failure: str | None) -> None:
        if self._first.acquire(blocking=False):
            try:
                self._ended(self, failure)
            finally:
                self._held.release()


class UnitQueue:
    """Gives the missing units of a store to this process, and to any number of others that ask on the same store."""

    def __init__(
        self,
        files: FileSystem,
        store: Path,
        plan: Plan,
        *,
        share: tuple[int, int] = (0, 1),
        run: str = "",
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """The units that `take` gives.

        Args:
            share: (worker, workers), the first is 0: begin with this part of the units, before any others.
            run: names the run of an engine: failures are counted within one. Letters, digits, dashes, at most 64;
                empty: a run of its own.
            wait: is called with seconds while all missing units are held by others; may raise, to stop.
        Raises: StoreError for a run that is no such name.

        """
        check_run(run)
        self._store, self._plan, self._wait = store, plan, wait
        self._share, self._run = share, run or uuid.uuid4().hex[:12]
        self._failures = Failures(files, store, plan)
        self._missing = list(range(plan.n_units))
        self._ahead: deque[int] = deque()
        self._looked = self._begins = self._met = False
        self._mine: dict[int, float] = {}
        self._longest_seconds = 0.0
        files.make_folder(store / STAGING)

    def take(self) -> TakenUnit | None:
        """A missing unit that no other living process holds; None when all units are committed.

        Those that have failed within the run come last. While all missing ones are held, wait for them; after long,
        take one that is held a second time.
        Raises: StoreError naming a unit that has failed three times within the run, and the last reason, when nothing
            else is left to take; OSError.
        """
        waited, pause = 0.0, _SHORTEST_SECONDS
        while True:
            if (taken := self._next_ahead()) is not None:
                return taken
            failed = self._look()
            if not self._missing:
                return None
            if self._ahead:
                continue
            patience = max(_PATIENCE_SECONDS, _SLOWER * self._longest_seconds)
            for again in (False, True) if waited > patience else (False,):
                for unit in sorted(self._missing, key=lambda unit: (failed[unit], secrets.randbits(32))):
                    if unit not in self._mine and (taken := self._claimed(unit, again=again)) is not None:
                        return taken
            if not self._mine:
                for unit in self._missing:
                    if self._failures.has_failed(unit, self._run) and not self._is_committed(unit):
                        raise self._failures.error(unit, self._run)
            self._wait(pause)
            waited, pause = waited + pause, min(2 * pause, _LONGEST_SECONDS)

    def _next_ahead(self) -> TakenUnit | None:
        """The next unit of the walk; None where it ends, also because another process has been at the next unit."""
        if not self._ahead:
            return None
        unit = self._ahead.popleft()
        taken = None if self._is_committed(unit) else self._claimed(unit)
        if taken is None:
            self._ahead.clear()
        self._begins, self._met = False, taken is None and self._begins
        return taken

    def _look(self) -> Counter[int]:
        """List what is missing, held and failed, and plan the next walk, over the others.

        Returns: how often each unit has failed.
        """
        if len(self._missing) > len(commit_folders(self._plan)):
            there = committed_units(self._store, self._plan)
            missing = [unit for unit in self._missing if unit not in there]
        else:  # many may be waiting for the last few: a look at each of them is less than a list of all
            missing = [unit for unit in self._missing if not self._is_committed(unit)]
        self._missing = missing
        names = os.listdir(self._store / STAGING)
        held, failed = {claimed_unit(name) for name in names} - {None}, failed_units(names, self._run)
        free = [unit for unit in missing if unit not in held and unit not in failed and unit not in self._mine]
        first, self._looked, self._begins = not self._looked, True, True
        worker, workers = self._share
        low, high = (number * self._plan.n_units // workers for number in (worker, worker + 1))
        mine = [unit for unit in free if low <= unit < high] if first else []
        if mine and (workers > 1 or not held):
            self._ahead = deque(mine)
        elif free:
            # Where two came to the same middle at once, chance parts them.
            begin = secrets.randbelow(len(free)) if self._met else _middle_of_longest_run(free)
            self._ahead = deque(free[begin:] + free[:begin])
        return failed

    def _claimed(self, unit: int, *, again: bool = False) -> TakenUnit | None:
        """A unit that is claimed, if it can be, and is still missing then, and may be tried."""
        name = key_name(unit) + ".again" * again
        held = claim(self._store / STAGING / name, run=self._run, buried=partial(self._failures.count_death, unit))
        if held is None:
            return None
        if self._is_committed(unit) or self._failures.has_failed(unit, self._run):
            held.release()
            return None
        self._mine[unit] = time.monotonic()
        return TakenUnit(unit, held, self._ended)

    def _ended(self, taken: TakenUnit, failure: str | None) -> None:
        seconds = time.monotonic() - self._mine.pop(taken.number, time.monotonic())
        if failure is not None:
            with suppress(OSError):  # a full disk, which the reason names: what cannot be written is not counted
                self._failures.count(taken.number, self._run, failure)
        elif self._is_committed(taken.number):
            self._longest_seconds = max(self._longest_seconds, seconds)
            self._failures.forget(taken.number, self._run)

    def _is_committed(self, unit: int) -> bool:
        return commit_path(self._store, self._plan, unit).exists()


def _middle_of_longest_run(units: list[int]) -> int:
    """Index into rising numbers: the middle of the longest run of neighbours, the first of equal ones."""
    cuts = np.flatnonzero(np.diff(units) != 1) + 1
    edges = np.concatenate([[0], cuts, [len(units)]])
    lengths = np.diff(edges)
    longest = int(np.argmax(lengths))
    return int(edges[longest] + lengths[longest] // 2)
