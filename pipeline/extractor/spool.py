"""The corpus as two flat files of tokens, and the order in which a store holds its documents."""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from strata_sae.pipeline.config.corpus import CorpusSettings
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.kept_columns import KeptColumns
from strata_sae.pipeline.extractor.ngrams import SeenNgrams
from strata_sae.pipeline.extractor.sources import Stream, drawn
from strata_sae.pipeline.extractor.tokens import DocumentTokenizer
from strata_sae.pipeline.language_model.transformers_library import Tokenizer
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.reading.document_columns import DocumentColumns
from strata_sae.stores import permutation
from strata_sae.stores.files.canonical import Json


@dataclass(frozen=True)
class Spool:
    """Every token of the corpus; `T` tokens in `D` documents."""

    token_id: np.ndarray
    """int32 [T], mapped."""
    flags: np.ndarray
    """uint8 [T], mapped: 1 BOS, 2 another special token, 4 a token of the chat template."""
    starts: np.ndarray
    """int64 [D+1]: document d is tokens starts[d] to starts[d+1]-1."""
    document: np.ndarray
    """int64 [D]: running index of the document over the corpus; one drawn again keeps its first."""
    skipped_documents: int
    """Documents of fewer than two tokens, left out."""
    provenance: dict[str, Json]
    """What was read, by source."""
    sequence: np.ndarray
    """S16 [D]: hash of the tokens that the model would see of the document; of one cut to fit `n_tokens`, before that.
    128 bits: among 10^12 documents two different ones share a hash with a chance of about 10^-15."""
    cut: dict[int, bytes]
    """Documents that were cut to fit `n_tokens`: hash of what was kept."""
    lines: tuple[str, ...] = ()
    """What `strata plan` says of the corpus beside its counts."""
    columns: DocumentColumns | None = None
    """What the sources' `columns` hold, by the document's running index; None: no source names any."""


def spool_documents(
    corpus: CorpusSettings, tokenizer: Tokenizer, folder: Path, show_progress: bool, seed: int = 0
) -> Spool:
    """Tokenise the corpus into `folder/token_id.int32` and `folder/flags.uint8`, a batch in memory at a time.

    Raises: ConfigError for a corpus that cannot be read, is empty, or holds fewer than `n_tokens` tokens.
    """
    document_tokenizer = DocumentTokenizer(tokenizer, corpus)
    seen = SeenNgrams()
    streams = [
        Stream(corpus, number, document_tokenizer, seed=seed, seen=seen) for number in range(len(corpus.sources))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    token_path, flags_path = folder / "token_id.int32", folder / "flags.uint8"
    starts = array("q", [0])
    documents = array("q")
    sequence, cut = bytearray(), {}
    columns = KeptColumns(corpus.sources)
    shown = Progress("tokenise", corpus.n_tokens, "token", shown=show_progress)
    with token_path.open("wb") as tokens, flags_path.open("wb") as flags, shown, document_tokenizer:
        for document, n_tokens, index in drawn(corpus, streams):
            whole = document.token_id.astype("<i4").tobytes()
            kept = whole[: 4 * n_tokens]
            if kept != whole:
                cut[len(documents)] = sequence_hash(kept)
            sequence += sequence_hash(whole)
            tokens.write(kept)
            flags.write(document.flags[:n_tokens].tobytes())
            starts.append(starts[-1] + n_tokens)
            documents.append(index)
            columns.add(index, document.kept)
            shown.advance(n_tokens)
    skipped = sum(stream.skipped for stream in streams)
    if not documents:
        raise ConfigError(
            f"corpus.sources: no document of two tokens or more ({skipped} shorter ones were skipped); add text"
        )
    given_back = document_tokenizer.given_back
    return Spool(
        token_id=np.memmap(token_path, dtype="<i4", mode="r"),
        flags=np.memmap(flags_path, dtype=np.uint8, mode="r"),
        starts=np.array(starts, dtype=np.int64),
        document=np.array(documents, dtype=np.int64),
        skipped_documents=skipped,
        provenance={"sources": [stream.provenance() for stream in streams], "text_given_back": {**given_back.record()}},
        sequence=np.frombuffer(sequence, dtype="S16"),
        cut=cut,
        lines=(
            *(line for stream in streams for line in stream.lines()),
            *given_back.lines(),
            *_remembered(seen),
            *columns.lines(),
        ),
        columns=columns.columns(),
    )


def _remembered(seen: SeenNgrams) -> Iterator[str]:
    if len(seen):
        yield f"deduplicate: {len(seen):,} different n-grams were remembered, in {seen.n_bytes:,} bytes of memory"


def sequence_hash(tokens: bytes) -> bytes:
    """16 bytes that stand for a sequence of token ids (little-endian int32)."""
    return hashlib.blake2b(tokens, digest_size=16).digest()


@dataclass(frozen=True)
class Arrangement:
    """The documents of a spool in plan order; a row is a token."""

    spool: Spool
    order: np.ndarray
    """int64 [D]: place in the spool of the document that comes d-th; held-out documents are last."""
    splits: dict[str, tuple[int, int]]
    """Rows of `train` and of `heldout`: first, and one past the last."""
    copies: int
    """Documents with the tokens of one that was drawn before, whether it was drawn again or read at another place."""

    @cached_property
    def starts(self) -> np.ndarray:
        """First row of each document in plan order, and the number of rows: int64 [D+1]."""
        return _starts(self.spool, self.order)

    @property
    def n_rows(self) -> int:
        """Rows in all."""
        return int(self.starts[-1])

    def blocks(self, rows_per_block: int) -> Iterator[dict[str, np.ndarray]]:
        """The token map in plan order, `rows_per_block` rows at a time, fewer in the last.

        Each block: token_id int32, document int64, position int32 (place in the document), flags uint8.
        """
        for start in range(0, self.n_rows, rows_per_block):
            yield self.rows(start, min(start + rows_per_block, self.n_rows))

    def rows(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """The token map of rows start..stop-1, of which there is one or more."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        last = int(np.searchsorted(self.starts, stop, side="left"))
        bounds = np.clip(self.starts[first : last + 1], start, stop)
        place = np.repeat(np.arange(first, last), np.diff(bounds))  # of each row's document, in plan order
        position = np.arange(start, stop) - self.starts[place]
        spooled = self.spool.starts[self.order[place]] + position
        return {
            "token_id": self.spool.token_id[spooled].astype(np.int32, copy=False),
            "document": self.spool.document[self.order[place]],
            "position": position.astype(np.int32),
            "flags": self.spool.flags[spooled],
        }


def arrange(spool: Spool, corpus: CorpusSettings, seed: int) -> Arrangement:
    """Hold documents out, and order the rest. All documents of the same tokens are on one side.

    Raises: ConfigError where `heldout_fraction` leaves no document to train on.
    """
    original = spool.document[first_of_its_tokens(spool)]
    originals = np.unique(original)
    held_out = np.isin(original, _held_out(np.unique(spool.document), originals, corpus.heldout_fraction, seed))
    n_documents = len(original)
    order = permutation(["document order", seed], n_documents) if corpus.shuffle_documents else np.arange(n_documents)
    order = np.concatenate([order[~held_out[order]], order[held_out[order]]])
    n_training = n_documents - int(held_out.sum())
    starts = _starts(spool, order)
    boundary, n_rows = int(starts[n_training]), int(starts[-1])
    splits = {"train": (0, boundary), "heldout": (boundary, n_rows)}
    return Arrangement(spool, order, splits, n_documents - len(originals))


def first_of_its_tokens(spool: Spool) -> np.ndarray:
    """For each document, the place in the spool of the first document with the same tokens: int64 [D].

    A document that was cut to fit `n_tokens` is a copy of documents with its tokens before the cut and of documents
    with its tokens after it, and so all of these are copies of each other.
    """
    _, first, number = np.unique(spool.sequence, return_index=True, return_inverse=True)
    original = first[number.reshape(-1)]
    same_as_cut: dict[bytes, int] = {}
    for place, kept in spool.cut.items():
        twins = np.flatnonzero(spool.sequence == kept)[:1].tolist()
        for twin in [*twins, same_as_cut.setdefault(kept, place)]:
            one, other = sorted((int(original[place]), int(original[twin])))
            original[original == other] = one
    return original


def _held_out(documents: np.ndarray, originals: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """A seeded choice of round(fraction * originals), at least one where the fraction is not 0.

    All documents are permuted and copies are then left out, so that one copy more changes little of the choice.
    """
    if fraction == 0.0:
        return originals[:0]
    n_heldout = max(1, round(fraction * len(originals)))
    if n_heldout >= len(originals):
        raise ConfigError(
            f"corpus.heldout_fraction: {fraction} of {len(originals)} document(s), copies counted once, leaves none to "
            f"train on; use more documents (`separator` cuts a text file), a lower fraction, or 0 (then nothing is "
            f"held out for evaluation)"
        )
    permuted = documents[permutation(["held-out documents", seed], len(documents))]
    return permuted[np.isin(permuted, originals)][:n_heldout]


def _starts(spool: Spool, order: np.ndarray) -> np.ndarray:
    lengths = np.diff(spool.starts)[order]
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
