"""What is known of each latent, from finished segments: the table that lies beside the codes.

Latents are taken block by block, and of each block segment after segment, so memory grows neither with rows nor with
latents. Counts, moments, bins, top rows and partners are over the rows that pass training's filters, of all splits.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.kernels.machine.compiled.postings import take_histogram, take_postings
from strata_sae.pipeline.queries.cofiring import top_partners
from strata_sae.stores import CodesStore

N_TOP, N_BINS, N_PARTNERS = 32, 40, 64
_PAIRS_AT_ONCE = 2**22
"""Of a block of latents (count): 32 MB. A latent with more is a block by itself, read segment by segment."""


class Postings(NamedTuple):
    """The codes of a block of latents in one segment."""

    first_row: int
    """Of the segment."""
    offsets: np.ndarray
    """int64 [latents + 1]."""
    rows: np.ndarray
    """uint32, from the segment's first."""
    values: np.ndarray
    """float32."""


def latent_table(codes: CodesStore, kept_N: np.ndarray) -> dict[str, np.ndarray]:
    """The table of E latents: its columns are in docs/codes.md. kept_N: bool [n_rows], the rows that count."""
    d_sae, count_all_E = codes.plan.d_sae, codes.count_E
    table: dict[str, np.ndarray] = {
        "count": np.zeros(d_sae, np.int64),
        "count_all": count_all_E.astype(np.int64),
        "max": np.full(d_sae, -np.inf, np.float32),
        "mean": np.zeros(d_sae),
        "mean_square": np.zeros(d_sae),
        "histogram": np.zeros((d_sae, N_BINS), np.uint32),
        "top_rows": np.full((d_sae, N_TOP), -1, np.int64),
        "top_values": np.zeros((d_sae, N_TOP), np.float32),
    }
    for first, last in blocks(count_all_E):
        _take(codes, first, last, kept_N, table, n_pairs=int(count_all_E[first:last].sum()))
    least_1_E = np.maximum(table["count"], 1)
    table["mean"] /= least_1_E
    table["mean_square"] /= least_1_E
    table["max"][table["count"] == 0] = 0
    table["partners"], table["partner_counts"] = top_partners(codes, kept_N, N_PARTNERS)
    return table


def _take(
    codes: CodesStore, first: int, last: int, kept_N: np.ndarray, table: dict[str, np.ndarray], n_pairs: int
) -> None:
    """Fill the rows of latents [first, last); mean and mean_square are sums as yet."""
    some = slice(first, last)
    count, largest, top_rows, top_values = (table[name][some] for name in ("count", "max", "top_rows", "top_values"))
    sums = np.zeros((last - first, 2))
    # What is small is read once for both loops.
    held = list(_postings(codes, first, last)) if n_pairs <= _PAIRS_AT_ONCE else None
    for part in held or _postings(codes, first, last):
        take_postings(*part, kept_N, count, largest, sums, top_rows, top_values)
    table["mean"][some], table["mean_square"][some] = sums.T
    for part in held or _postings(codes, first, last):
        take_histogram(*part, kept_N, largest, table["histogram"][some])


def _postings(codes: CodesStore, first: int, last: int) -> Iterator[Postings]:
    for segment in range(codes.plan.n_segments):
        yield Postings(codes.plan.segment_rows(segment)[0], *codes.latents_in(segment, first, last))


def blocks(count_E: np.ndarray, most: int = _PAIRS_AT_ONCE) -> Sequence[tuple[int, int]]:
    """Neighbouring latents with at most so many pairs together: [first, last) each; at least one latent."""
    found, first, n = [], 0, 0
    for latent, count in enumerate(count_E.tolist()):
        if n + count > most and latent > first:
            found.append((first, latent))
            first, n = latent, 0
        n += count
    return [*found, (first, len(count_E))] if len(count_E) else found
