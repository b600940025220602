"""Loops over the codes of many rows: from one order to the other, and what is known of each latent.

A row's codes by latent are what a search engine calls postings: rising rows, and a value for each.
"""

import numpy as np

from strata_sae.pipeline.kernels.machine.compiled.loops import _compile

FEW = 24
"""Entries of a row that are sorted by insertion (count): a sort that calls itself costs more."""


@_compile()
def append_rows(
    values_P: np.ndarray,
    latents_P: np.ndarray,
    offsets: np.ndarray,
    first: int,
    last: int,
    n: int,
    row_latent: np.ndarray,
    row_value: np.ndarray,
    counts: np.ndarray,
) -> int:
    """Append rows first to last - 1 of some codes: what is not 0, by latent in each row, behind the n entries there.

    counts [last - first]: is set to the entries of each row. row_latent, row_value: have room for all.
    Returns: how many entries there are then.
    """
    most = 0
    for row in range(first, last):
        most = max(most, offsets[row + 1] - offsets[row])
    # A latent and the bits of its value in one number, so that a sort moves one array.
    keys = np.empty(most, np.uint64)
    bits = values_P.view(np.uint32)
    for row in range(first, last):
        n_row, rises = 0, True
        for place in range(offsets[row], offsets[row + 1]):
            if values_P[place] != 0:
                keys[n_row] = (np.uint64(latents_P[place]) << np.uint64(32)) | np.uint64(bits[place])
                rises &= n_row == 0 or keys[n_row - 1] < keys[n_row]
                n_row += 1
        if not rises and n_row > FEW:
            keys[:n_row].sort()
        elif not rises:
            for i in range(1, n_row):
                key, j = keys[i], i
                while j > 0 and keys[j - 1] > key:
                    keys[j] = keys[j - 1]
                    j -= 1
                keys[j] = key
        out = row_value.view(np.uint32)
        for i in range(n_row):
            row_latent[n + i] = keys[i] >> np.uint64(32)
            out[n + i] = keys[i] & np.uint64(0xFFFFFFFF)
        counts[row - first] = n_row
        n += n_row
    return n


@_compile()
def transposed(
    row_offset: np.ndarray, row_latent: np.ndarray, row_value: np.ndarray, d_sae: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The codes by latent: offsets int64 [E + 1], rows uint32 [P], rising in each latent, values float32 [P]."""
    latent_offset = np.zeros(d_sae + 1, np.int64)
    for latent in row_latent:
        latent_offset[latent + 1] += 1
    for latent in range(d_sae):
        latent_offset[latent + 1] += latent_offset[latent]
    at = latent_offset[:-1].copy()
    latent_row = np.empty(len(row_latent), np.uint32)
    latent_value = np.empty(len(row_latent), np.float32)
    for row in range(len(row_offset) - 1):
        for place in range(row_offset[row], row_offset[row + 1]):
            latent = row_latent[place]
            latent_row[at[latent]] = row
            latent_value[at[latent]] = row_value[place]
            at[latent] += 1
    return latent_offset, latent_row, latent_value


@_compile()
def take_postings(
    first_row: int,
    latent_offset: np.ndarray,
    latent_row: np.ndarray,
    latent_value: np.ndarray,
    kept_N: np.ndarray,
    count: np.ndarray,
    largest: np.ndarray,
    sums: np.ndarray,
    top_rows: np.ndarray,
    top_values: np.ndarray,
) -> None:
    """Take the codes of some latents on rows first_row and after into what is known of each, [E] or [E, n].

    Only rows with kept_N [N] count. count int64: active rows. largest float32: -inf before the first one. sums float64
    [E, 2]: of values and of their squares. top_rows int64, top_values float32 [E, n]: by value falling, of equal ones
    the first rows; -1 and 0 behind them. To be called with rising rows.
    """
    n_top = top_rows.shape[1]
    for latent in range(len(count)):
        n, total, square, most = count[latent], sums[latent, 0], sums[latent, 1], largest[latent]
        rows, values = top_rows[latent], top_values[latent]
        last = n_top - 1
        for place in range(latent_offset[latent], latent_offset[latent + 1]):
            row = first_row + np.int64(latent_row[place])
            if not kept_N[row]:
                continue
            value = latent_value[place]
            total += np.float64(value)
            square += np.float64(value) * np.float64(value)
            most = max(most, value)
            n += 1
            # A later row takes no place from an equal value, so ties go by row.
            if n > n_top and not value > values[last]:
                continue
            i = min(n - 1, last)
            while i > 0 and values[i - 1] < value:
                rows[i], values[i] = rows[i - 1], values[i - 1]
                i -= 1
            rows[i], values[i] = row, value
        count[latent], sums[latent, 0], sums[latent, 1], largest[latent] = n, total, square, most


@_compile()
def take_histogram(
    first_row: int,
    latent_offset: np.ndarray,
    latent_row: np.ndarray,
    latent_value: np.ndarray,
    kept_N: np.ndarray,
    largest: np.ndarray,
    histogram: np.ndarray,
) -> None:
    """Count the values of some latents, on the rows of kept_N, in n equal bins of (0, largest]: uint32 [E, n].

    A bin holds its upper edge. Values of 0 and below, which signed codes have, are in none.
    """
    n_bins = histogram.shape[1]
    for latent in range(len(largest)):
        scale = n_bins / np.float64(largest[latent])
        for place in range(latent_offset[latent], latent_offset[latent + 1]):
            value = latent_value[place]
            if value > 0 and kept_N[first_row + np.int64(latent_row[place])]:
                # Rounding may put the largest value itself behind the last edge.
                place_in = np.int64(np.ceil(np.float64(value) * scale)) - 1
                histogram[latent, min(max(place_in, 0), n_bins - 1)] += 1
