"""The corpus as two flat files of tokens, in the order in which documents were drawn."""

import hashlib
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from strata_sae.pipeline.config.corpus import CorpusSettings
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.sources import Stream, drawn
from strata_sae.pipeline.extractor.tokens import DocumentTokenizer
from strata_sae.pipeline.progress import Progress


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
    provenance: dict[str, Any]
    """What was read, by source."""
    sequence: np.ndarray
    """S16 [D]: hash of the tokens that the model would see of the document; of one cut to fit `n_tokens`, before that.
    128 bits: among 10^12 documents two different ones share a hash with a chance of about 10^-15."""
    cut: dict[int, bytes]
    """Documents that were cut to fit `n_tokens`: hash of what was kept."""


def spool_documents(corpus: CorpusSettings, tokenizer: Any, folder: Path, show_progress: bool) -> Spool:
    """Tokenise the corpus into `folder/token_id.int32` and `folder/flags.uint8`, a batch in memory at a time.

    Raises: ConfigError for a corpus that cannot be read, is empty, or holds fewer than `n_tokens` tokens.
    """
    document_tokenizer = DocumentTokenizer(tokenizer, corpus)
    streams = [Stream(corpus, number, document_tokenizer) for number in range(len(corpus.sources))]
    folder.mkdir(parents=True, exist_ok=True)
    token_path, flags_path = folder / "token_id.int32", folder / "flags.uint8"
    starts = array("q", [0])
    documents = array("q")
    sequence, cut = bytearray(), {}
    shown = Progress("tokenise", corpus.n_tokens, "token", shown=show_progress)
    with token_path.open("wb") as tokens, flags_path.open("wb") as flags, shown:
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
            shown.advance(n_tokens)
    skipped = sum(stream.skipped for stream in streams)
    if not documents:
        raise ConfigError(
            f"corpus.sources: no document of two tokens or more ({skipped} shorter ones were skipped); add text"
        )
    return Spool(
        token_id=np.memmap(token_path, dtype="<i4", mode="r"),
        flags=np.memmap(flags_path, dtype=np.uint8, mode="r"),
        starts=np.array(starts, dtype=np.int64),
        document=np.array(documents, dtype=np.int64),
        skipped_documents=skipped,
        provenance={
            "sources": [stream.provenance() for stream in streams],
            "text_given_back": document_tokenizer.given_back.record(),
        },
        sequence=np.frombuffer(sequence, dtype="S16"),
        cut=cut,
    )


def sequence_hash(tokens: bytes) -> bytes:
    """16 bytes that stand for a sequence of token ids (little-endian int32)."""
    return hashlib.blake2b(tokens, digest_size=16).digest()
