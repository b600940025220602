"""What a plan says of a source's rows beside their number: bad ones, special tokens in the text, what is not read."""

from collections import Counter
from collections.abc import Iterator

from strata_sae.pipeline.config.corpus import Source
from strata_sae.pipeline.extractor.documents.document import BadRow
from strata_sae.pipeline.extractor.tokens import TokenisedDocument
from strata_sae.stores.files.canonical import Json

N_LISTED = 20
"""Bad rows, and special tokens in the text, that a plan lists; it counts them all."""


class Noted:
    """What a reader of the plan should know of a source's rows, counted over its first pass."""

    def __init__(self) -> None:
        self.n_bad_rows = 0
        self.bad_rows: list[BadRow] = []
        """The first N_LISTED."""
        self._n_spelled = 0
        self._spelled: dict[str, None] = {}
        self._unread: Counter[str] = Counter()
        self._system: Counter[str] = Counter()

    def bad_row(self, bad: BadRow) -> None:
        """Count a row that was left out."""
        self.n_bad_rows += 1
        if len(self.bad_rows) < N_LISTED:
            self.bad_rows.append(bad)

    def document(self, document: TokenisedDocument) -> None:
        """Count what the plan says of a document that is stored."""
        self._unread.update(document.unread)
        if document.system is not None:
            self._system[document.system] += 1
        if document.spelled is not None:
            self._n_spelled += 1
            if len(self._spelled) < N_LISTED:
                self._spelled[document.spelled] = None

    def provenance(self) -> dict[str, Json]:
        """The counts that are not zero."""
        record: dict[str, Json] = {}
        if self.n_bad_rows:
            first: list[Json] = [
                {"file": bad.place.file, "row": bad.place.row, "why": bad.why} for bad in self.bad_rows
            ]
            record["bad_rows"] = {"count": self.n_bad_rows, "first": first}
        if self._n_spelled:
            record["special_tokens_spelled"] = {"documents": self._n_spelled, "tokens": [*self._spelled]}
        if self._unread:
            record["not_read_by_template"] = {**dict(sorted(self._unread.items()))}
        if self._system:
            record["system_prompts"] = {what: self._system[what] for what in ("dropped", "kept")}
        return record

    def lines(self, source: Source) -> Iterator[str]:
        """The same in words."""
        if self.n_bad_rows:
            first = self.bad_rows[0]
            where = f"{first.place.file}, row {first.place.row}"
            yield f"bad rows left out: {self.n_bad_rows:,}; the first is {where}: {first.why}"
        if self._n_spelled:
            what = f"documents that contain the text of special tokens, such as {next(iter(self._spelled))!r}: "
            what += f"{self._n_spelled:,}"
            if getattr(source, "chat", False):
                yield f"{what}; it becomes those tokens, as the template's own text does"
            else:
                advice = "set `separator` if it stands between documents, or " if source.kind == "text" else ""
                yield f"{what}; it is stored as ordinary text: {advice}remove it if it is no text"
        if self._unread:
            each = ", ".join(f"{name} ({count:,} documents)" for name, count in sorted(self._unread.items()))
            yield f"not read by the chat template, so not stored: {each}"
        if self._system:
            dropped, total = self._system["dropped"], self._system.total()
            yield f"system prompts dropped: {dropped:,} of {total:,} documents that have one"
