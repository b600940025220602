"""Drawing documents from weighted sources, deterministically."""

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from strata_sae.pipeline.config.corpus import CorpusSettings
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents import BadRow, describe, read_documents
from strata_sae.pipeline.extractor.noted import Noted
from strata_sae.pipeline.extractor.provenance import ReadFiles
from strata_sae.pipeline.extractor.tokens import DocumentTokenizer, TokenisedDocument, without_short


class Stream:
    """One source's documents as tokens, again from the first one after each end."""

    def __init__(self, corpus: CorpusSettings, number: int, tokenizer: DocumentTokenizer) -> None:
        self.source = source = corpus.sources[number]
        self.label = f"corpus.sources[{number}] ({source.kind})"
        self.tokens = 0
        self.documents = 0
        self.skipped = 0
        self._tokenizer = tokenizer
        self._noted = Noted()
        self._skip_short, self._bad_rows = corpus.short_documents == "skip", corpus.bad_rows
        self._indices = array("q")  # by place in the source; a document drawn again keeps the index it got first
        self._origins: dict[Path | str, None] = {}
        self._files = ReadFiles(source, self.label)
        self._first_pass = True
        self._drawn_before_pass = 0
        self._restart()

    def _restart(self) -> None:
        documents = self._tokenizer.tokenise(read_documents(self.source, self._bad_rows))
        self._read = without_short(documents, self._skip_short)
        self._place = -1

    def next(self) -> TokenisedDocument | None:
        """The next document, or None at the end of the source. Raises: ConfigError if all its rows are bad."""
        for document in self._read:
            if document is None:
                self.skipped += self._first_pass
            elif not isinstance(document, BadRow):
                self._place += 1
                return document
            elif self._first_pass:
                self._noted.bad_row(document)
        self._files.all_read()
        if self._place < 0 and self.skipped == 0 and self._noted.n_bad_rows:
            first = self._noted.bad_rows[0]
            raise ConfigError(
                f"{self.label}: all its rows are bad ({self._noted.n_bad_rows:,}); the first is {first.place.where}: "
                f"{first.why}"
            )
        return None

    def rewind(self) -> None:
        """Go back to the first document. Raises: ConfigError where the pass now over gave nothing."""
        if self.documents == self._drawn_before_pass:
            raise ConfigError(
                f"{self.label}: repeating it gives nothing more: none of its documents can be drawn "
                f"({self.skipped} of fewer than two tokens were skipped); use longer documents or another n_tokens"
            )
        self._first_pass = False
        self._drawn_before_pass = self.documents
        self._restart()

    def draw(self, document: TokenisedDocument, n_tokens: int, next_index: int) -> int:
        """Count a document of which `n_tokens` are taken; its index is `next_index` unless it has one already."""
        self.tokens += n_tokens
        self.documents += 1
        if document.origin is not None:
            self._origins[document.origin] = None
        while self._place >= len(self._indices):
            self._indices.append(-1)
        if self._indices[self._place] < 0:
            self._noted.document(document)
            self._indices[self._place] = next_index
        return self._indices[self._place]

    def provenance(self) -> dict[str, Any]:
        """What was read, and how much of it. Raises: ConfigError for a file that changed meanwhile."""
        unique = sum(index >= 0 for index in self._indices)
        counts = {"documents": unique, "documents_repeated": self.documents - unique, "tokens": self.tokens}
        files, not_read = self._files.parted(self._origins)
        self._files.check_unchanged(files)
        record = {
            **describe(self.source, files),
            **counts,
            "documents_too_short": self.skipped,
            **self._noted.provenance(),
        }
        self._files.check_unchanged(files)
        return record if not_read is None else record | {"files_not_read": not_read}


def drawn(corpus: CorpusSettings, streams: list[Stream]) -> Iterator[tuple[TokenisedDocument, int, int]]:
    """Documents, the number of tokens to take of each, and their indices, until `n_tokens` are drawn exactly.

    The next document comes from the source with the fewest tokens for its weight (the first such), so that the sources'
    shares of the tokens follow their weights to within a document each.

    Raises: ConfigError where a source ends too early.
    """
    _check_repeat(corpus)
    live = list(streams)
    total = next_index = 0
    while live and total != corpus.n_tokens:
        stream = min(live, key=lambda stream: stream.tokens / stream.source.weight)
        document = stream.next()
        if document is None:
            if corpus.n_tokens is None:
                live.remove(stream)
            elif corpus.repeat:
                stream.rewind()
            else:
                raise _exhausted(corpus.n_tokens, stream, streams)
            continue
        length = len(document.token_id)
        taken = length if corpus.n_tokens is None else fitting(length, corpus.n_tokens - total)
        if taken:
            index = stream.draw(document, taken, next_index)
            next_index = max(next_index, index + 1)
            total += taken
            yield document, taken, index


def fitting(length: int, remaining: int) -> int:
    """Tokens to take of a document of `length` tokens where `remaining` are wanted; 0: pass it over. Both are >= 2.

    The last document is cut to fit. A document that would leave one single token wanted loses its last token, so that
    two are; one of two tokens cannot, and is passed over.
    """
    if length >= remaining:
        return remaining
    if remaining - length > 1:
        return length
    return length - 1 if length > 2 else 0


def _check_repeat(corpus: CorpusSettings) -> None:
    if corpus.repeat and corpus.n_tokens is None:
        raise ConfigError(
            "corpus.repeat: true with corpus.n_tokens: null would never end; set n_tokens to a count, or repeat: false"
        )


def _exhausted(n_tokens: int, ended: Stream, streams: list[Stream]) -> ConfigError:
    had = sum(stream.tokens for stream in streams)
    if len(streams) == 1:
        found = f"but the corpus holds {had:,}"
        advice = "lower corpus.n_tokens"
    else:
        shares = ", ".join(f"{stream.label} gave {stream.tokens:,}" for stream in streams)
        found = (
            f"but {ended.label} ended after {had:,} in all ({shares}), and going on would change the sources' shares"
        )
        advice = f"lower corpus.n_tokens, or the weight of {ended.label}"
    return ConfigError(
        f"corpus.n_tokens asks for {n_tokens:,} tokens, {found}; {advice}, set n_tokens to null (everything once), "
        f"add sources, or set corpus.repeat: true"
    )
