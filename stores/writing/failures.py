"""How often a unit has failed within one run of an engine: files in the staging folder, which no reader looks at."""

import os
import re
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.beats import Beat
from strata_sae.stores.files.canonical import Json, canonical_json, read_canonical
from strata_sae.stores.files.filesystem import FileSystem, publish_exclusive
from strata_sae.stores.files.locks import Lease
from strata_sae.stores.format.commits import commit_path, key_name
from strata_sae.stores.format.plan import STAGING, Plan

MOST_FAILURES = 3
"""Of one unit within one run: then it is the unit's fault, or that of what it is filled with, and the run stops."""

_PREFIX = "failed."
_RUN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LONGEST_REASON = 2000


def failed_units(names: Iterable[str], run: str) -> Counter[int]:
    """How often each unit has failed in a run, of those that have, by the names in the staging folder."""
    beginning = f"{_PREFIX}{run}."
    units = [name.removeprefix(beginning).partition(".")[0] for name in names if name.startswith(beginning)]
    return Counter(int(unit) for unit in units if unit.isdecimal())


def check_run(run: str) -> None:
    """Raises: StoreError if a run has a name that no file can have. It may be empty."""
    if run and not _RUN.fullmatch(run):
        raise StoreError(f"run: {run[:40]!a} is no name of a run; use letters of ASCII, digits, - and _, at most 64")


class Failures:
    """The failures of a store's units. What is committed has not failed, whatever happened before."""

    def __init__(self, files: FileSystem, store: Path, plan: Plan) -> None:
        self._files, self._store, self._plan = files, store, plan

    def count(self, unit: int, run: str, reason: str) -> None:
        """One more failure of a unit in a run. Raises: OSError where it cannot be written."""
        if not _RUN.fullmatch(run):  # none, or a lock file that nobody of ours wrote
            return
        record: dict[str, Json] = {"unit": unit, "run": run, "reason": " ".join(reason[:_LONGEST_REASON].split())}
        with Lease(self._files, self._store / STAGING / f"failure-{uuid.uuid4().hex[:12]}") as drafts:
            for place in self._places(run, unit):
                if publish_exclusive(self._files, drafts / "failure", place, canonical_json(record)):
                    break
        if self._is_committed(unit):  # meanwhile, by another process, which had nothing to forget yet
            self.forget(unit, run)

    def count_death(self, unit: int, beat: Beat | None) -> None:
        """One more failure of a unit whose owner died while it filled it, in the run that its lock file names."""
        if beat is not None and not self._is_committed(unit):
            self.count(unit, beat.run, "the process that filled it was killed")

    def has_failed(self, unit: int, run: str) -> bool:
        """Whether a unit has failed so often within a run that nobody may try again."""
        return self._places(run, unit)[-1].exists()

    def error(self, unit: int, run: str) -> StoreError:
        """What a run ends with that such a unit is left of, with the last reason."""
        try:
            reason = read_canonical(self._places(run, unit)[-1])["reason"]
        except (FileNotFoundError, KeyError, StoreError):  # cut by a power failure
            reason = "unknown"
        return StoreError(
            f"{self._store}: unit {unit} failed {MOST_FAILURES} times, the last time because: {reason}. Remove the "
            f"cause and run the same command again: what is there is kept"
        )

    def forget(self, unit: int, run: str) -> None:
        """Remove what a run has counted of a unit."""
        for place in self._places(run, unit):
            self._files.unlink(place)

    def forget_all(self) -> None:
        """Remove all that any run has counted."""
        for name in sorted(os.listdir(self._store / STAGING)):
            if name.startswith(_PREFIX):
                self._files.unlink(self._store / STAGING / name)

    def _places(self, run: str, unit: int) -> list[Path]:
        beginning = f"{_PREFIX}{run}.{key_name(unit)}"
        return [self._store / STAGING / f"{beginning}.{number}" for number in range(1, MOST_FAILURES + 1)]

    def _is_committed(self, unit: int) -> bool:
        return commit_path(self._store, self._plan, unit).exists()
