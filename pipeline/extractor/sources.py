"""Documents drawn from weighted sources, always the same ones, and what a plan records of each source."""

import os
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from strata_sae.pipeline.config.corpus import CorpusSettings, HubDataset, PythonDocs, Source
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents import describe, read_documents
from strata_sae.pipeline.extractor.documents.document import BadRow
from strata_sae.pipeline.extractor.documents.files import printable
from strata_sae.pipeline.extractor.documents.finding import local_files, matching
from strata_sae.pipeline.extractor.ngrams import SeenNgrams
from strata_sae.pipeline.extractor.noted import Noted
from strata_sae.pipeline.extractor.system_prompts import decided
from strata_sae.pipeline.extractor.tokens import DocumentTokenizer, TokenisedDocument
from strata_sae.pipeline.paths import as_path
from strata_sae.stores.files.canonical import Json


class Stream:
    """One source's documents as tokens, again from the first one after each end."""

    def __init__(
        self,
        corpus: CorpusSettings,
        number: int,
        tokenizer: DocumentTokenizer,
        *,
        seed: int = 0,
        seen: SeenNgrams | None = None,
    ) -> None:
        """`seed`: the config's. `seen`: n-grams of the documents of all sources that were read before."""
        self.source = source = corpus.sources[number]
        self.label = f"corpus.sources[{number}] ({source.kind})"
        self.tokens = 0
        self.documents = 0
        self.skipped = 0
        self._tokenizer, self._seed = tokenizer, seed
        self._deduplicate = corpus.deduplicate
        self._seen = SeenNgrams() if seen is None else seen
        self._left_out = bytearray()  # by place in the source: 1 for a document that shares n-grams
        self._noted = Noted()
        self._skip_short, self._bad_rows = corpus.short_documents == "skip", corpus.bad_rows
        self._indices = array("q")  # by place in the source; a document drawn again keeps the index it got first
        self._origins: dict[Path | str, None] = {}
        self._files = ReadFiles(source, self.label)
        self._first_pass = True
        self._drawn_before_pass = 0
        self._restart()

    def _restart(self) -> None:
        rows = read_documents(self.source, self._bad_rows)
        self._read = self._tokenizer.tokenise(
            decided(rows, getattr(self.source, "system_drop_probability", 0.0), self._seed)
        )
        self._place = -1

    def next(self) -> TokenisedDocument | None:
        """The next document of two tokens or more, or None at the end of the source.

        Raises: ConfigError for a shorter one unless such are skipped, and if all rows of the source are bad.
        """
        for document in self._read:
            if isinstance(document, BadRow):
                if self._first_pass:
                    self._noted.bad_row(document)
            elif len(document.token_id) >= 2:
                self._place += 1
                if not self._is_left_out(document):
                    return document
            elif self._skip_short:
                self.skipped += self._first_pass
            else:
                raise ConfigError(
                    f"{document.where}: {len(document.token_id)} token(s), BOS included; a document needs two or more: "
                    f"remove it, or set corpus.short_documents: skip"
                )
        self._files.all_read = True
        if self._place < 0 and self.skipped == 0 and self._noted.n_bad_rows:
            first = self._noted.bad_rows[0]
            raise ConfigError(
                f"{self.label}: all its rows are bad ({self._noted.n_bad_rows:,}); the first is {first.place.where}: "
                f"{first.why}"
            )
        return None

    def _is_left_out(self, document: TokenisedDocument) -> bool:
        """Whether the document at this place shares an n-gram; decided when it is first read, and kept for repeats."""
        if document.ngrams is None:
            return False
        if self._place == len(self._left_out):
            shares = self._seen.holds_any(document.ngrams)
            if not shares:
                self._seen.add(document.ngrams)
            self._left_out.append(shares)
        return bool(self._left_out[self._place])

    @property
    def n_left_out(self) -> int:
        """Documents left out by `corpus.deduplicate`, each counted once."""
        return sum(self._left_out)

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
        """Count a document of which `n_tokens` are taken. Returns: the index it has, or `next_index`."""
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

    def provenance(self) -> dict[str, Json]:
        """What was read, and how much of it. Raises: ConfigError for a file that changed meanwhile."""
        unique = sum(index >= 0 for index in self._indices)
        files, not_read = self._files.parted(self._origins)
        self._files.check_unchanged(files)
        record: dict[str, Json] = {
            **describe(self.source, files),
            "documents": unique,
            "documents_repeated": self.documents - unique,
            "tokens": self.tokens,
            "documents_too_short": self.skipped,
            **self._noted.provenance(),
        }
        if self._deduplicate is not None:
            record["documents_deduplicated"] = self.n_left_out
        self._files.check_unchanged(files)
        if not_read is not None:
            record["files_not_read"] = not_read
        return record

    def lines(self) -> Iterator[str]:
        """What is to be said of the source beside its counts: a line each, naming the source."""
        for line in self._noted.lines(self.source):
            yield f"{self.label}: {line}"
        if self._deduplicate is not None:
            what = "tokens" if getattr(self.source, "tokens", False) else "words"
            yield (
                f"{self.label}: left out by deduplicate: {self.n_left_out:,} of {len(self._left_out):,} documents, "
                f"each with {self._deduplicate.n} {what} in a row of an earlier one"
            )


def drawn(corpus: CorpusSettings, streams: list[Stream]) -> Iterator[tuple[TokenisedDocument, int, int]]:
    """Documents, the number of tokens to take of each, and their indices, until `n_tokens` are drawn exactly.

    The next document comes from the source with the fewest tokens for its weight (the first such), so that the sources'
    shares of the tokens follow their weights to within a document each.

    Raises: ConfigError where a source ends too early.
    """
    if corpus.repeat and corpus.n_tokens is None:
        raise ConfigError(
            "corpus.repeat: true with corpus.n_tokens: null would never end; set n_tokens to a count, or repeat: false"
        )
    left = list(streams)
    total = next_index = 0
    while left and total != corpus.n_tokens:
        stream = min(left, key=lambda stream: stream.tokens / stream.source.weight)
        document = stream.next()
        if document is None:
            if corpus.n_tokens is None:
                left.remove(stream)
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
    if n_left_out := sum(stream.n_left_out for stream in streams):
        found += f", {n_left_out:,} documents having been left out by corpus.deduplicate"
    return ConfigError(
        f"corpus.n_tokens asks for {n_tokens:,} tokens, {found}; {advice}, set n_tokens to null (everything once), "
        f"add sources, or set corpus.repeat: true"
    )


def files_of(source: Source) -> list[Path]:
    """The files that a source would be read from now, in their order; empty for one that is not read from files."""
    if isinstance(source, HubDataset):
        return local_files(as_path(source.path, "corpus.sources: path"))
    found: set[Path] = set()
    for pattern in [] if isinstance(source, PythonDocs) else source.paths:
        with suppress(ConfigError):  # no such file now
            found |= set(matching([pattern]))
    return sorted(found, key=lambda path: path.as_posix())


class ReadFiles:
    """The files of a source as they were when reading began."""

    def __init__(self, source: Source, label: str) -> None:
        self._label = label
        self._states = {path: _state(path) for path in files_of(source)}
        self.all_read = source.kind == "dataset"  # `datasets` reads a folder's files in an order of its own

    def parted(self, origins: Iterable[Path | str]) -> tuple[list[Path | str], list[Json] | None]:
        """(the files up to the last one with a document in the store, the names of those after it).

        A source that is not read from files: its origins, and None.
        """
        if not self._states:
            return list(origins), None
        paths = list(self._states)
        place = {path: number for number, path in enumerate(paths)}
        if unknown := [path for path in origins if path not in place]:
            raise self._changed(unknown[0])
        read = len(paths) if self.all_read else max((place[Path(path)] + 1 for path in origins), default=0)
        return list(paths[:read]), [printable(path.name) for path in paths[read:]]

    def check_unchanged(self, paths: Iterable[Path | str]) -> None:
        """Raises: ConfigError for a file whose size, time of change or inode is not what it was."""
        for path in paths:
            if Path(path) in self._states and _state(Path(path)) != self._states[Path(path)]:
                raise self._changed(path)

    def _changed(self, path: Path | str) -> ConfigError:
        return ConfigError(
            f"{self._label}: {path} changed while it was read; when it is complete, run the same command again"
        )


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:  # the file is gone, or the reader will say why it cannot be read
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino  # not ctime: a hard link or a new mode is no new content
