"""Deduplication of a corpus: bytes and time of 10^8 n-grams, beside its bound of 1 GiB.

    python benchmarks/ngrams.py

Hashes random texts of 500 words, then puts random fingerprints into the set, 500 at a time as of documents.
"""

import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.toy import met, sized
from strata_sae.pipeline.extractor.documents.document import Document, Place
from strata_sae.pipeline.extractor.ngrams import SeenNgrams, ngrams_of

N = sized(10**8, 10**5)
DOCUMENT, N_GRAM = 500, 20
MOST_BYTES = 2**30


def hashing_seconds(n_words: int) -> float:
    """CPU seconds of the n-grams of texts of as many words in all."""
    generator = np.random.default_rng(0)
    vocabulary = ["".join(map(chr, generator.integers(97, 123, length))) for length in generator.integers(2, 9, 50_000)]
    numbers = generator.integers(0, len(vocabulary), (n_words // DOCUMENT, DOCUMENT))
    documents = [Document(Place(""), text=" ".join(vocabulary[word] for word in row)) for row in numbers]
    began = time.process_time()
    for document in documents:
        ngrams_of(document, N_GRAM)
    return time.process_time() - began


def main() -> int:
    """Returns: 0 if the set, counted, never took more than the bound."""
    n_words = min(N, 500_000)
    print(f"hashing: {hashing_seconds(n_words) / n_words * 1e6:.2f} us of CPU a word")
    generator, seen, most = np.random.default_rng(1), SeenNgrams(), 0
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for _ in range(N // DOCUMENT):
        some = np.unique(generator.integers(0, 2**64, DOCUMENT, dtype=np.uint64))
        if not seen.holds_any(some):
            seen.add(some)
        most = max(most, seen.n_bytes)
    seconds, grown = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{len(seen):,} n-grams: {most:,} bytes counted at most, {most / len(seen):.2f} each (bound {MOST_BYTES:,})")
    print(f"the process grew by {grown * 1024:,} bytes; {seconds / len(seen) * 1e6:.2f} us of CPU each")
    return int(not met(most <= MOST_BYTES))


if __name__ == "__main__":
    sys.exit(main())
