"""n-grams of documents as 64-bit fingerprints, and a set of a hundred million of them in less than a GiB."""

import hashlib
import re
import sys
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from strata_sae.pipeline.extractor.documents.document import Cell, Document

# Between spaces; but where a script puts no spaces between words (Thai to Khmer, kana, Chinese), each character is one.
_NO_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_NO_SPACES}]|[^\s{_NO_SPACES}]+")

FINGERPRINT_BYTES = 8
"""Two different n-grams are taken for one with a chance of 2^-64: of a document of 500 words, beside 10^8 n-grams seen
before, 3e-9; of any document in a corpus of 10^8 words, 3e-4."""


def ngrams_of(document: Document, n: int) -> np.ndarray:
    """Fingerprints of every run of `n` words in a text or in one message of a chat: uint64, rising, each once.

    System messages of a chat are left out: one that all chats share would leave one chat. Words are compared as they
    are written; how much space is between them is not. Of token ids: runs of `n` ids. A document without such a run
    has one fingerprint, of all its words, so that a copy of a short document is one, too.
    """
    if document.token_ids is not None:
        pieces = [[token_id.to_bytes(8, "little", signed=True) for token_id in document.token_ids]]
    else:
        pieces = [[word.encode() for word in _WORD.findall(text)] for text in _texts(document)]
    found = [digest for words in pieces for digest in _digests(words, n)]
    if not found:
        found = [_digest(b"\n".join(b" ".join(words) for words in pieces))]
    return np.unique(np.frombuffer(b"".join(found), dtype="<u8"))


def _texts(document: Document) -> list[str]:
    if document.messages is None:
        return [document.text or ""]
    return [_said(message.get("content")) for message in document.messages if message["role"] != "system"]


def _said(content: Cell) -> str:
    """The text of a message's content, which may come in parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _digests(words: Sequence[bytes], n: int) -> list[bytes]:
    """Of each run of n words: of the bytes from its first word to its last, with one space between words."""
    joined = b" ".join(words)
    starts = [0, *accumulate(len(word) + 1 for word in words)]
    return [_digest(joined[starts[i] : starts[i + n] - 1]) for i in range(len(words) - n + 1)]


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=FINGERPRINT_BYTES).digest()


class SeenNgrams:
    """Fingerprints that were seen: a sorted array, and the latest in a set until they are merged into it.

    8 bytes each in the array; in the set about 100, for at most a 64th of them: 9.6 bytes each in all.
    """

    # A merge moves the whole array. At a 64th, each fingerprint is moved 64 times on average, which takes about as long
    # as its hash, and the set stays small. Below the least number merges would be too frequent.
    SHARE, LEAST = 64, 2**14
    MERGED_AT_ONCE = 2**20
    """Fingerprints of the array that a merge copies at a time (8 MiB)."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, dtype=np.uint64)
        self._latest: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._latest)

    @property
    def n_bytes(self) -> int:
        """Memory that it takes now (bytes): the array, the set's table and the integers in it."""
        return self._sorted.nbytes + sys.getsizeof(self._latest) + len(self._latest) * sys.getsizeof(2**63)

    def holds_any(self, fingerprints: np.ndarray) -> bool:
        """Whether one of them (uint64) was added before."""
        if not self._latest.isdisjoint(fingerprints.tolist()):
            return True
        if not len(self._sorted):
            return False
        places = np.minimum(np.searchsorted(self._sorted, fingerprints), len(self._sorted) - 1)
        return bool(np.any(self._sorted[places] == fingerprints))

    def add(self, fingerprints: np.ndarray) -> None:
        """Add fingerprints (uint64), none of which was added before."""
        self._latest.update(fingerprints.tolist())
        if len(self._latest) > max(self.LEAST, len(self._sorted) // self.SHARE):
            self._merge()

    def _merge(self) -> None:
        """Into the array, in place and from its end, so that there is never a second array of its size."""
        added = np.sort(np.fromiter(self._latest, np.uint64, len(self._latest)))
        self._latest = set()
        stop, stop_added = len(self._sorted), len(added)
        self._sorted.resize(stop + stop_added, refcheck=False)
        while stop_added:
            start = max(0, stop - self.MERGED_AT_ONCE)
            start_added = int(np.searchsorted(added[:stop_added], self._sorted[start])) if start else 0
            piece = np.concatenate([self._sorted[start:stop], added[start_added:stop_added]])
            piece.sort(kind="stable")  # merges two sorted runs
            self._sorted[start + start_added : stop + stop_added] = piece
            stop, stop_added = start, start_added
