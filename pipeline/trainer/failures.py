"""Trainings that failed, counted within one run of an engine: an SAE that always fails stops it with its name.

Only failures after which no further checkpoint was written count together, so that workers on machines that are taken
away again and again get to the end.
"""

import re
from pathlib import Path

from strata_sae.pipeline.errors import CheckpointError, one_line
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.stores.files.filesystem import write_bytes

MOST_FAILURES = 3
"""After so many at the same step an SAE is not tried again (count)."""
_LINE = re.compile(r"(\S+) step (\d+): (.*)")


def note_failure(folder: VariantFolder, run: str, reason: str | BaseException) -> None:
    """Add a failure to those of an SAE. To be called by who holds it. run: names the run of the engine."""
    line = f"{run} step {steps_done(folder)}: {one_line(reason)[:500] or type(reason).__name__}\n"
    write_bytes(folder.failures, _data(folder.failures) + line.encode("utf-8", "backslashreplace"))


def failures(folder: VariantFolder, run: str) -> list[str]:
    """Why training failed in this run of an engine since the newest checkpoint, a line each."""
    found = [_LINE.fullmatch(line) for line in _data(folder.failures).decode("utf-8", "replace").splitlines()]
    here = (run, str(steps_done(folder)))
    return [match[3] for match in found if match and (match[1], match[2]) == here]


def fails(folder: VariantFolder, run: str) -> bool:
    """Whether an SAE has failed too often to try it again in this run of an engine."""
    return len(failures(folder, run)) >= MOST_FAILURES


def refuse_failing(name: str, folder: VariantFolder, run: str) -> None:
    """Raises: CheckpointError that tells why an SAE is not tried again, if it is not."""
    reasons = failures(folder, run)
    if len(reasons) >= MOST_FAILURES:
        raise CheckpointError(
            f"{name}: its training failed {len(reasons)} times at step {steps_done(folder)}, at last: {reasons[-1]}. "
            "Remove the cause and run the same command again: what is there is kept"
        )


def steps_done(folder: VariantFolder) -> int:
    """Updates up to the newest checkpoint, by its name (count)."""
    found = (re.fullmatch(r"step_(\d+)", path.name) for path in folder.checkpoints.glob("step_*"))
    return max((int(match[1]) for match in found if match), default=0)


def _data(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
