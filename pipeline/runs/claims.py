"""Who works on what of a run: one claim for each SAE, so that any number of processes train in one run folder.

`claims/<variant>@<site>.lock` is there while a process trains, imports or copies that SAE, and the folder is gone when
none does. What is done to the run as a whole has claims of its own, by the names below.
"""

import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from strata_sae.pipeline import stopping
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.stores.files.claims import Buried, Claim, claim, is_claimed, lock_of

DELETING, TRACKING = "deleting", "tracking"
"""Deleting a run excludes every other claim; sending to its trackers excludes its like."""
POLL_SECONDS = 1.0
"""Between two looks at what others hold: little beside a training, and few questions to a file server."""
_PART = "~"  # no name of an SAE has one
_SEARCH = f"{_PART}match"
_LOCK = lock_of(Path("name")).suffix


class Hold:
    """A claim in a run folder. The last one that is given back removes the folder of claims."""

    def __init__(self, name: str, claim: Claim, run: RunFolder) -> None:
        self.name, self._claim, self._folder = name, claim, run.claims

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.release()

    def is_lost(self) -> bool:
        """Whether another process has taken it, because it saw no beat for long."""
        return self._claim.is_lost()

    def release(self) -> None:
        """Give it back; safe to call twice."""
        self._claim.release()
        with suppress(OSError):  # others hold claims in it
            self._folder.rmdir()


def search_of(sae: str) -> str:
    """The name of the claim of the search for an SAE's L0: a process holds it from the first trial to the last."""
    return f"{sae}{_SEARCH}"


def codes_of(sae: str, what: str) -> str:
    """The name of the claim of a part of an SAE's codes: `segment-0007`, `table` or `labels`."""
    return f"{sae}{_PART}codes-{what}"


def interpretation_of(sae: str) -> str:
    """The name of the claim of an SAE's interpretation."""
    return f"{sae}{_PART}interpretation"


def claim_in(run: RunFolder, name: str, *, engine_run: str = "", buried: Buried | None = None) -> Hold | None:
    """The claim of a name in a run; None where a living process holds it, or may.

    Args:
        engine_run, buried: as `claim` has them.
    Raises: CheckpointError while the run is being deleted.

    """
    while True:
        run.claims.mkdir(parents=True, exist_ok=True)
        try:
            found = claim(run.claims / name, run=engine_run, buried=buried)
        except FileNotFoundError:  # another process has just given its last claim back
            continue
        if found is None:
            return None
        hold = Hold(name, found, run)
        # Whoever deletes the run claims that first and then looks for the claims of others: one of the two is seen.
        if name != DELETING and is_claimed(run.claims / DELETING):
            hold.release()
            raise CheckpointError(f"{run.path}: another process is deleting this run; give the new one another name")
        return hold


def waited_for(run: RunFolder, name: str) -> Hold:
    """The claim of a name in a run, when no other process holds it any more. Raises: as `claim_in`; StoppedError."""
    while (hold := claim_in(run, name)) is None:
        pause()
    return hold


def pause() -> None:
    """Wait before another look at what others hold. Raises: StoppedError if this process was asked to end."""
    stopping.check()
    time.sleep(POLL_SECONDS)


def living(run: RunFolder) -> list[str]:
    """The names in a run that a process holds now, as far as one can tell."""
    names = (path.name.removesuffix(_LOCK) for path in sorted(run.claims.glob(f"*{_LOCK}")))
    return [name for name in names if _is_held(run, name)]


def trained_now(run: RunFolder) -> list[str]:
    """The SAEs among them."""
    return [name for name in living(run) if "@" in name and _PART not in name]


def parts_of(run: RunFolder, sae: str) -> list[str]:
    """The names of claims on parts of an SAE that a process holds now: the search for its L0, its codes."""
    return [name for name in living(run) if name.partition(_PART)[0] == sae and _PART in name]


def refuse_claimed(run: RunFolder, sae: str | None = None) -> None:
    """Raises: CheckpointError naming what another process works on: of the run, or only of an SAE of it."""
    held = [name for name in living(run) if sae is None or name.partition(_PART)[0] == sae]
    if held:
        raise busy(run, held)


def busy(run: RunFolder, names: list[str]) -> CheckpointError:
    """What to tell of claims that other processes hold."""
    locks = ", ".join(str(lock_of(run.claims / name)) for name in names[:3])
    return CheckpointError(
        f"{run.path}: another process is writing this run: {', '.join(names[:10])}; wait for it, or end it. "
        f"If none is left that could, on any machine, remove {locks}{' and the others like it' if names[3:] else ''}"
    )


def _is_held(run: RunFolder, name: str) -> bool:
    try:
        return is_claimed(run.claims / name)
    except OSError:  # a folder of another person: one cannot tell
        return True
