"""Sums and products of gathered rows. Every sum runs in the order of its pairs."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import numpy as np

from strata_sae.pipeline.kernels.machine.compiled.jit import compiled, compiled_any_order, compiled_fused


@compiled_fused
def weighted_sums(start, stop, indices, table, offsets, weights, out):
    """out[s] = sum of weights[p] * table[indices[p]] over the pairs p of stretch s: odd ones, then four at a time."""
    n_columns = table.shape[1]
    for s in range(start, stop):
        total = out[s]
        total[:] = 0
        first, last = offsets[s], offsets[s + 1]
        odd = first + (last - first) % 4
        for p in range(first, odd):
            row, weight = table[indices[p]], weights[p]
            for m in range(n_columns):
                total[m] += weight * row[m]
        for p in range(odd, last, 4):
            a, b, c, d = table[indices[p]], table[indices[p + 1]], table[indices[p + 2]], table[indices[p + 3]]
            w, x, y, z = weights[p], weights[p + 1], weights[p + 2], weights[p + 3]
            for m in range(n_columns):
                total[m] += (w * a[m] + x * b[m]) + (y * c[m] + z * d[m])


@compiled_any_order
def sampled_dots(start, stop, left, table, rows, indices, out):
    """out[p] = <left[rows[p]], table[indices[p]]> for the pairs start to stop - 1."""
    n_columns = table.shape[1]
    for p in range(start, stop):
        one, other = left[rows[p]], table[indices[p]]
        total = out.dtype.type(0)
        for m in range(n_columns):
            total += one[m] * other[m]
        out[p] = total


@compiled
def index_sums(values, indices, out):
    """Add values[p] to out[indices[p]], in order; out: float64."""
    for p in range(values.size):
        out[indices[p]] += values[p]


@compiled
def sort_by_index(indices, rows, n):
    """The order that sorts the pairs by index, equal ones as they come; their rows in that order; each index's start.

    Returns: [P], [P], [n + 1].
    """
    starts = np.zeros(n + 1, np.int64)
    for p in range(indices.size):
        starts[indices[p] + 1] += 1
    for i in range(n):
        starts[i + 1] += starts[i]
    place = starts[:-1].copy()
    order, sorted_rows = np.empty_like(indices), np.empty_like(rows)
    for p in range(indices.size):
        i = place[indices[p]]
        place[indices[p]] = i + 1
        order[i], sorted_rows[i] = p, rows[p]
    return order, sorted_rows, starts
