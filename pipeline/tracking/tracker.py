"""What a tracker is sent, and what it has to do with it."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from pydantic import JsonValue

from strata_sae.pipeline.runs.records import CurveLine


class Entry(NamedTuple):
    """One run in the words of trackers: an SAE, or the whole run, which has the report."""

    id: str
    """Equal whenever the same SAE of the same run is sent, and in no other case (16 hex digits)."""
    label: str
    """`<variant>@<site>`; `report` of the whole run."""
    run: str
    """Name of the run: its folder's."""
    config: Mapping[str, JsonValue]
    """config.json of the SAE; empty of the whole run."""

    @property
    def name(self) -> str:
        """As it is shown."""
        return f"{self.run}/{self.label}"


class News(NamedTuple):
    """What a tracker has not been sent of an entry."""

    lines: Sequence[CurveLine]
    scores: Mapping[str, float]
    """All of them by `<population>/<metric>`, or none where they are as they were sent."""
    n_steps: int
    """Updates made when the scores were measured."""
    files: Sequence[Path]
    ending: str | None
    """How training ended: `finished`, `diverged`; None: it goes on, or that was said before."""

    def is_any(self) -> bool:
        """Whether there is something to send."""
        return bool(self.lines or self.scores or self.files or self.ending)


class Tracker(Protocol):
    """One tracker, opened. Whatever it raises is told in a line, and it is sent nothing more."""

    keeps_at_once: bool
    """Whether a process that is killed after `send` loses nothing; else nothing counts as sent before `close`."""

    def send(self, entry: Entry, news: News, since: int | None) -> None:
        """Show what is new. Sent again after a kill, it is shown once.

        since: the last step that is known to have been sent; None: none is.
        """

    def close(self) -> None:
        """Write what is left, and end."""


def numbers_of(line: CurveLine) -> dict[str, float]:
    """The numbers of a line but for its step; those that are no finite ones have no spelling in curves.jsonl."""
    return {name: value for name, value in line.numbers().items() if value is not None and name != "step"}


def wait_for_a_later_second(paths: Iterable[Path]) -> None:
    """Return when the clock shows a later second than the one in which the newest of these was written.

    TensorBoard and wandb name what they write by the second. Written within one second, what a resumed process sends
    would be read before what is there, or lie where that lies. A clock that was put back is not waited for.
    """
    newest = max((int(path.stat().st_mtime) for path in paths), default=0)
    left_seconds = newest + 1 - time.time()
    if 0 < left_seconds <= 1:
        time.sleep(left_seconds)
