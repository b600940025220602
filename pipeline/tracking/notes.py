"""What each tracker was sent: runs/<run>/tracking/<tracker>.json."""

from typing import ClassVar

from strata_sae.pipeline.runs.record_files import fingerprint
from strata_sae.pipeline.runs.records import Count, Group, Record
from strata_sae.pipeline.tracking.found import Found
from strata_sae.pipeline.tracking.tracker import News
from strata_sae.stores.files.hashing import file_sha256


class SentPart(Group):
    """Of one entry."""

    id: str
    step: Count | None
    """The last step that was sent; null: none."""
    scores: str | None
    """`fingerprint` of the scores; null: none were sent."""
    files: dict[str, str]
    """Name -> sha256."""
    ending: str | None


class Note(Record):
    """What a tracker was sent; written after it was."""

    kind: ClassVar[str] = "tracking.json"
    remedy: ClassVar[str] = "delete it and what the tracker has of this run, and all is sent anew"
    entries: dict[str, SentPart]
    """By label."""


def compare(found: Found, sent: SentPart | None) -> tuple[News, SentPart]:
    """What is new of an entry, and what will have been sent of it then."""
    entry = found.entry
    if sent is None or sent.id != entry.id:
        sent = SentPart(id=entry.id, step=None, scores=None, files={}, ending=None)
    lines = [line for line in found.lines if sent.step is None or line.step > sent.step]
    scores = fingerprint(dict(found.scores)) if found.scores else sent.scores
    files = {path: file_sha256(path) for path in found.files}
    news = News(
        lines=lines,
        scores=found.scores if scores != sent.scores else {},
        n_steps=found.n_steps,
        files=[path for path, hashed in files.items() if sent.files.get(path.name) != hashed],
        ending=found.ending if found.ending != sent.ending else None,
    )
    then = SentPart(
        id=entry.id,
        step=lines[-1].step if lines else sent.step,
        scores=scores,
        files=sent.files | {path.name: hashed for path, hashed in files.items()},
        ending=found.ending or sent.ending,
    )
    return news, then
