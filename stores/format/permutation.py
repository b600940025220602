"""Random orders as pure functions of a key: no generator state to lose, equal on every machine."""

import hashlib

import numpy as np

from strata_sae.stores.files.canonical import canonical_json


def random_words(key: object, n: int) -> np.ndarray:
    """Random numbers, uint64, named by `key` (plain data)."""
    digest = hashlib.sha256(canonical_json(key)).digest()
    return np.asarray(np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(n))


def permutation(key: object, n: int) -> np.ndarray:
    """A random order of 0..n-1, int64, named by `key` (plain data).

    Philox's raw stream is fixed by its definition; numpy's `permutation` may change between versions.
    """
    if n <= 1:
        return np.zeros(n, np.int64)
    raw = random_words(key, n)
    bits = np.uint64(max(n - 1, 1).bit_length())
    # Random upper bits, the index below: keys are unique, so every sorting algorithm gives the same order.
    keys = (raw >> bits << bits) | np.arange(n, dtype=np.uint64)
    # A radix pass over the upper 16 bits leaves short stretches for the comparison sort: half the time at 2^20 keys.
    keys = keys[np.argsort((raw >> np.uint64(48)).astype(np.uint16), kind="stable")]
    keys.sort(kind="stable")
    return np.asarray(keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
