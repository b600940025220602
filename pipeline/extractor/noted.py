"""What a source's rows were that a reader of the plan should know of: counted once a row, and said in a line each."""

from collections import Counter
from typing import Any

from strata_sae.pipeline.extractor.documents import BadRow
from strata_sae.pipeline.extractor.tokens import TokenisedDocument

N_LISTED = 20


class Noted:
    """Counts over the first pass of one source."""

    def __init__(self) -> None:
        self.n_bad_rows = 0
        self.bad_rows: list[BadRow] = []
        """The first N_LISTED."""
        self._n_spelled = 0
        self._spelled: dict[str, None] = {}
        self._unread: Counter[str] = Counter()

    def bad_row(self, bad: BadRow) -> None:
        """Count a row that was left out."""
        self.n_bad_rows += 1
        if len(self.bad_rows) < N_LISTED:
            self.bad_rows.append(bad)

    def document(self, document: TokenisedDocument) -> None:
        """Count what is to be said of a document that is stored."""
        self._unread.update(document.unread)
        if document.spelled is not None:
            self._n_spelled += 1
            if len(self._spelled) < N_LISTED:
                self._spelled[document.spelled] = None

    def provenance(self) -> dict[str, Any]:
        """The counts that are not zero."""
        record: dict[str, Any] = {}
        if self.n_bad_rows:
            first = [{"file": bad.place.file, "row": bad.place.row, "why": bad.why} for bad in self.bad_rows]
            record["bad_rows"] = {"count": self.n_bad_rows, "first": first}
        if self._n_spelled:
            record["special_tokens_spelled"] = {"documents": self._n_spelled, "tokens": list(self._spelled)}
        if self._unread:
            record["not_read_by_template"] = dict(sorted(self._unread.items()))
        return record


def lines(corpus_provenance: dict[str, Any], corpus_config: dict[str, Any]) -> list[str]:
    """What the provenance of a corpus says beside its counts: a line each, naming the source."""
    said = []
    for number, (record, source) in enumerate(zip(corpus_provenance["sources"], corpus_config["sources"], strict=True)):
        where = f"corpus.sources[{number}] ({record['kind']})"
        said += [f"{where}: {line}" for line in _lines(record, source)]
    return said


def _lines(record: dict[str, Any], source: dict[str, Any]) -> list[str]:
    said = []
    if bad := record.get("bad_rows"):
        first = bad["first"][0]
        said.append(
            f"bad rows left out: {bad['count']:,}; the first is {first['file']}, row {first['row']}: {first['why']}"
        )
    if spelled := record.get("special_tokens_spelled"):
        what = f"documents that contain the text of special tokens, such as {spelled['tokens'][0]!r}: "
        what += f"{spelled['documents']:,}"
        if source.get("chat"):
            said.append(f"{what}; it becomes those tokens, as the template's own text does")
        else:
            advice = "set `separator` if it stands between documents, or " if record["kind"] == "text" else ""
            said.append(f"{what}; it is stored as ordinary text: {advice}remove it if it is no text")
    if unread := record.get("not_read_by_template"):
        each = ", ".join(f"{name} ({count:,} documents)" for name, count in unread.items())
        said.append(f"not read by the chat template, so not stored: {each}")
    return said
