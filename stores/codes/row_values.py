"""The values of the latents of a row, without reading where else these latents fire.

Values lie latent by latent, so that of a row r is at the latent's first entry + the rows before r on which it fires.
These are counted once for some rows of a segment, and from the nearest of them on by the latents of the rows between.
"""

from functools import partial

import numpy as np

from strata_sae.stores.codes.plan import AGAIN
from strata_sae.stores.codes.segment import check_values
from strata_sae.stores.codes.stored_segment import KEPT, StoredSegment
from strata_sae.stores.errors import StoreError

_COUNTS_BYTES = 2**21
"""Of what is counted of a segment: 64 MB of codes of the demo take 0.6 MB, a million rows of 65,536 latents 2."""
_LEAST_ROWS = 2048
"""Between rows of which latents are counted: 65,536 active latents at 32 a row, which are counted in 0.3 ms."""
_ROWS_TOGETHER = 512
"""Values of so many rows are read together where they take little more than those of one: a reader goes on."""
_FEW_CHUNKS = 256
"""Chunks of values of a segment up to which this is so: 0.25 ms each."""


def row_values(segment: StoredSegment, start: int, stop: int) -> np.ndarray:
    """The values, float32, of the pairs that `segment.latents_of(start, stop)` gives, in their order."""
    n_together = _ROWS_TOGETHER if segment.arrays["latent/value"].spec.n_chunks <= _FEW_CHUNKS else 1
    found = []
    for first in range(start // n_together * n_together, stop, n_together):
        last = min(first + n_together, segment.n_rows)
        offset, values = KEPT.get(
            (segment.key, "values", first, last), partial(_read, segment, first, last, n_together == 1)
        )
        some = offset[max(start, first) - first], offset[min(stop, last) - first]
        found.append(values[some[0] : some[1]])
    return np.concatenate(found) if found else np.empty(0, np.float32)


def _read(segment: StoredSegment, first: int, last: int, keep: bool) -> tuple[np.ndarray, np.ndarray]:
    """Where the pairs of each row begin, int64 [rows + 1] from 0, and their values. keep: the chunks they lie in."""
    counts, latents = segment.latents_of(first, last)
    entry = segment.offsets("latent", 0, segment.d_sae)
    at = entry[latents] + _before(segment, first)[latents] + _earlier(latents)
    if (at >= entry[latents.astype(np.int64) + 1]).any():
        raise StoreError(f"{segment.where}: rows {first}..{last - 1} have more latents than are listed; {AGAIN}")
    values = _gathered(segment, at, keep)
    check_values(values, f"{segment.where}/latent/value")
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]), values


def _earlier(latents: np.ndarray) -> np.ndarray:
    """How often the latent of each pair occurs among the pairs before it, int64."""
    order = np.argsort(latents, kind="stable")
    sorted_latents = latents[order]
    begins = np.flatnonzero(np.diff(sorted_latents, prepend=np.int64(-1)))
    earlier = np.empty(len(latents), np.int64)
    earlier[order] = np.arange(len(latents)) - np.repeat(begins, np.diff(begins, append=len(latents)))
    return earlier


def _before(segment: StoredSegment, row: int) -> np.ndarray:
    """On how many rows before a row each latent is active, int64 [E]."""
    n_rows = _rows_between(segment)
    (counts_SE,) = KEPT.get((segment.key, "counts"), lambda: (_counted(segment, n_rows),))
    place = row // n_rows
    since = segment.latents_of(place * n_rows, row)[1]
    found: np.ndarray = counts_SE[place] + np.bincount(since, minlength=segment.d_sae)
    return found


def _rows_between(segment: StoredSegment) -> int:
    """Rows from one of which latents are counted to the next (count)."""
    most = max(1, _COUNTS_BYTES // (4 * segment.d_sae))
    return max(_LEAST_ROWS, -(-segment.n_rows // most))


def _counted(segment: StoredSegment, n_rows: int) -> np.ndarray:
    """On how many rows before every n_rows-th one each latent is active, uint32 [places, E]."""
    starts = range(0, segment.n_rows, n_rows)
    counts_SE = np.zeros((len(starts), segment.d_sae), np.uint32)
    for place, start in enumerate(starts[:-1]):
        latents = segment.latents_of(start, start + n_rows, keep=False)[1]
        counts_SE[place + 1] = counts_SE[place] + np.bincount(latents, minlength=segment.d_sae).astype(np.uint32)
    return counts_SE


def _gathered(segment: StoredSegment, at: np.ndarray, keep: bool) -> np.ndarray:
    """Entries of the values, in any order, float32; every chunk of them is read once."""
    values = np.empty(len(at), np.float32)
    order = np.argsort(at, kind="stable")
    sorted_at = at[order]
    array = segment.arrays["latent/value"]
    size = array.spec.rows_per_chunk
    bounds = np.flatnonzero(np.diff(sorted_at // size, prepend=-1, append=-1))
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        chunk = int(sorted_at[begin]) // size
        values[order[begin:end]] = segment.chunk("latent/value", chunk, keep=keep)[sorted_at[begin:end] - chunk * size]
    return values
