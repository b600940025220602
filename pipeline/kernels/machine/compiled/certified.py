"""The k largest of each row from bfloat16 products and a limit on their error (see bfloat16_topk)."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import numpy as np

from strata_sae.pipeline.kernels.machine.compiled.largest import (
    BLOCK,
    DEPTH,
    LANES,
    bound_between,
    first_column,
    group_maxima,
    groups_reaching,
    keep_from,
    keep_k,
)
from strata_sae.pipeline.kernels.machine.compiled.loops import compiled, compiled_any_order

ROUNDING = 2.0**-8
"""Largest relative error of rounding to bfloat16, which has 8 bits of precision (to nearest: half of this)."""
FLOAT32_ROUNDING = 2.0**-23
"""The same of rounding to float32."""


@compiled
def lowered(bound, slack):
    """What the bfloat16 product of a latent among the k largest reaches, if k products reach `bound`."""
    # In float64, then below the nearest float32, so that no rounding here can rule out a latent.
    low = np.float64(bound) - ROUNDING * abs(np.float64(bound)) - np.float64(slack)
    return np.float32(low - FLOAT32_ROUNDING * abs(low))


@compiled
def as_float32(bits, out):
    """Bfloat16 numbers, given as 16-bit integers, in float32: the same bits, then 16 zeros."""
    wide = out.view(np.uint32)
    for i in range(bits.size):
        wide[i] = np.uint32(bits[i]) << np.uint32(16)


@compiled_any_order
def round_rows(start, stop, bits, out_bits, norms):
    """Round rows start to stop - 1 of float32 numbers, given as 32-bit integers, to the nearest bfloat16, even on ties.

    norms[:, row]: the row's norm when rounded, and the norm of what rounding took from it (NaN if the row has one).
    """
    n_columns = bits.shape[1]
    rounded = np.empty(n_columns, np.uint32)
    for row in range(start, stop):
        exact, out = bits[row], out_bits[row]
        for m in range(n_columns):
            # Half of the last kept bit is added before cutting off; on a tie the sum is odd only if that bit was set.
            high = (exact[m] + np.uint32(0x7FFF) + ((exact[m] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            out[m], rounded[m] = high, high << np.uint32(16)
        after, before = rounded.view(np.float32), exact.view(np.float32)
        square, lost = np.float32(0), np.float32(0)
        for m in range(n_columns):
            square += after[m] * after[m]
            lost += (before[m] - after[m]) * (before[m] - after[m])
        norms[0, row], norms[1, row] = np.sqrt(square), np.sqrt(lost)


@compiled_any_order
def dot(one, other):
    """Inner product of two vectors."""
    total = one.dtype.type(0)
    for m in range(one.size):
        total += one[m] * other[m]
    return total


@compiled
def candidates_of(row, no_bias, maxima, groups, k, slack, values, latents):
    """Write the latents of one row that their product does not rule out into values and latents.

    Returns: how many; values.size + 1 if there may be too many, 0 if there is a NaN.
    """
    if not group_maxima(row, no_bias, maxima):
        return 0
    n, low = 0, np.float32(-np.inf)
    if maxima.size >= k:
        low = lowered(bound_between(maxima, maxima.size, k, k + k // 8), slack)
    for g in groups[: groups_reaching(maxima, low, groups)]:
        if n + DEPTH > values.size:
            return values.size + 1
        i = first_column(g)
        for _ in range(DEPTH):
            if row[i] >= low:
                values[n], latents[n] = row[i], i
                n += 1
            i += np.uint64(LANES)
    for i in range(row.size // BLOCK * BLOCK, row.size):
        if row[i] >= low:
            if n == values.size:
                return n + 1
            values[n], latents[n] = row[i], i
            n += 1
    if n <= k:
        return n
    # The first bound came from groups' maxima; one from the candidates themselves is higher and leaves fewer.
    return keep_from(values, latents, n, lowered(bound_between(values, n, k, k + 1), slack))


@compiled
def certified_rows(start, stop, bits, slack, x0, W, bias, k, most, out_values, out_latents, certain):
    """The k largest of rows start to stop - 1 by their float32 values; certain[b]: whether they are certain."""
    n_latents = W.shape[0]
    n_groups = n_latents // BLOCK * LANES
    row, no_bias = np.empty(n_latents, np.float32), np.zeros(n_latents, np.float32)
    maxima, groups = np.empty(n_groups, np.float32), np.empty(n_groups + 1, np.int64)
    values, latents = np.empty(most + DEPTH, x0.dtype), np.empty(most + DEPTH, np.int64)
    # Row by row: the products of one row in float32 stay in the cache, those of the batch would fill twice the memory.
    for b in range(start, stop):
        as_float32(bits[b], row)
        n = candidates_of(row, no_bias, maxima, groups, k, slack[b], values, latents)
        certain[b] = k <= n <= most
        if not certain[b]:
            continue
        for i in range(n):
            values[i] = dot(x0[b], W[latents[i]]) + bias[latents[i]]
        if n > k:
            keep_k(values, latents, n, k)
        for i in range(k):
            out_values[b, i], out_latents[b, i] = values[i], latents[i]
