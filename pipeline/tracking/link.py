"""A tracker and the note of what it was sent."""

from collections.abc import Sequence
from pathlib import Path

from strata_sae.pipeline.runs.record_files import read_record, write_record
from strata_sae.pipeline.tracking import TRACKERS
from strata_sae.pipeline.tracking.found import Found
from strata_sae.pipeline.tracking.notes import Note, SentPart, compare
from strata_sae.pipeline.tracking.tracker import Tracker


class Link:
    """Opens its tracker when there is something to send. Any method may raise whatever the tracker's library raises."""

    def __init__(self, name: str, folder: Path, project: str) -> None:
        self.name = name
        self._folder, self._project, self._note = folder / name, project, folder / f"{name}.json"
        self._tracker: Tracker | None = None
        self._sent: dict[str, SentPart] | None = None

    def send(self, found: Sequence[Found]) -> None:
        """Send what is new, then write the note. Raises: CheckpointError if the note is damaged."""
        if self._sent is None:
            self._sent = dict(read_record(self._note, Note).record.entries) if self._note.exists() else {}
        is_new = False
        for one in found:
            before = self._sent.get(one.entry.label)
            news, after = compare(one, before)
            if not news.is_any():
                continue
            self._opened().send(one.entry, news, before.step if before and before.id == after.id else None)
            self._sent[one.entry.label], is_new = after, True
        if is_new and self._opened().keeps_at_once:
            write_record(self._note, Note(entries=self._sent))

    def close(self) -> None:
        """Close the tracker, if it was opened."""
        if self._tracker is None or self._sent is None:
            return
        self._tracker.close()
        if not self._tracker.keeps_at_once:
            write_record(self._note, Note(entries=self._sent))

    def _opened(self) -> Tracker:
        if self._tracker is None:
            self._tracker = TRACKERS[self.name](self._folder, self._project)
        return self._tracker
