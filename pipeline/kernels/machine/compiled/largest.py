"""The k largest of each row, as the row's columns arrive tile by tile: a rising bound passes few of them.

A row has candidates: every value so far that reaches its bound, which is never above the k-th largest so far. When
there are too many, the k-th largest of them becomes the bound, and all below it are dropped. In a tile, maxima of
groups of columns, computed at full vector speed, say which groups can hold a candidate.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import numpy as np

from strata_sae.pipeline.kernels.machine.compiled.loops import compiled

LANES, DEPTH = 64, 8
"""A group is DEPTH columns that are LANES apart; LANES groups make a block of neighbouring columns (counts)."""
# Constants, because the compiler then unrolls both loops over them: over lanes for maxima, over depths for candidates.
# 64 lanes of float32 are four vectors of the widest kind, enough sums at once to hide the latency of one.
BLOCK = LANES * DEPTH
"""Columns of a block (count)."""
HALVINGS = 24
"""Most steps towards the k-th largest, each of which halves the range where it can be (count)."""
# 24 halvings separate all float32 numbers between two powers of two. Where even that is not enough, a sort decides.


@compiled
def count_reaching(values, n, bound):
    """How many of the first n values are at least `bound`."""
    count = np.int32(0)
    for i in range(n):
        count += np.int32(values[i] >= bound)
    return count


@compiled
def bound_between(values, n, k, k_more):
    """A number that k of the first n values reach, and, where halving finds one, no more than k_more."""
    # Counting is one comparison per value at full vector speed; a sort or a heap moves values and branches.
    low, high = values[0], values[0]
    for i in range(n):
        low, high = min(low, values[i]), max(high, values[i])
    # In the values' own dtype: a float64 bound could fall between two float32 numbers that are neighbours.
    half = values.dtype.type(0.5)
    for _ in range(HALVINGS):
        middle = low + (high - low) * half
        if not low < middle < high:
            break
        count = count_reaching(values, n, middle)
        if count < k:
            high = middle
            continue
        low = middle
        if count <= k_more:
            break
    return low


@compiled
def kth_largest(values, n, k):
    """A number that exactly k of the first n values reach; with ties at the k-th largest, that value."""
    bound = bound_between(values, n, k, k)
    return bound if count_reaching(values, n, bound) == k else np.sort(values[:n])[n - k]


@compiled
def kth_value(values, k):
    """The k-th largest value itself; NaN where only NaNs are left for it."""
    bound = kth_largest(values, values.size, k)
    if bound != bound:
        return bound
    smallest = np.inf
    for i in range(values.size):
        if bound <= values[i] < smallest:
            smallest = values[i]
    return smallest


@compiled
def keep_from(values, columns, n, bound):
    """Drop the candidates below `bound`. Returns: how many are left."""
    kept = 0
    for i in range(n):
        values[kept], columns[kept] = values[i], columns[i]
        kept += values[kept] >= bound  # without a branch, which the processor could not predict
    return kept


@compiled
def keep_k(values, columns, n, k):
    """Drop all candidates but the k largest; of equal ones at the cut, those of the first columns stay.

    Returns: a bound that every later value has to reach to be among the k largest.
    """
    bound = kth_largest(values, n, k)
    n = keep_from(values, columns, n, bound)
    if n == k:
        return bound
    # More reach the bound only where several values equal it: a row's latents must not depend on how tiles were cut.
    n_above = 0
    for i in range(n):
        n_above += values[i] > bound
    tied = np.sort(columns[:n][values[:n] == bound])
    last = tied[k - n_above - 1]
    kept = 0
    for i in range(n):
        values[kept], columns[kept] = values[i], columns[i]
        kept += values[kept] > bound or columns[kept] <= last
    return bound


@compiled
def group_maxima(row, bias, maxima):
    """The maximum of row + bias over each group of whole blocks. Returns: whether the row has no NaN."""
    # NaN is looked for here because it compares false with everything: it would drop out of the k largest unnoticed.
    numbers = True
    for block in range(row.size // BLOCK):
        part, part_bias = row[block * BLOCK : (block + 1) * BLOCK], bias[block * BLOCK : (block + 1) * BLOCK]
        part_maxima = maxima[block * LANES : (block + 1) * LANES]
        for lane in range(LANES):
            part_maxima[lane] = part[lane] + part_bias[lane]
            numbers &= part_maxima[lane] == part_maxima[lane]
        for depth in range(1, DEPTH):
            for lane in range(LANES):
                value = part[depth * LANES + lane] + part_bias[depth * LANES + lane]
                part_maxima[lane] = value if value > part_maxima[lane] else part_maxima[lane]
                numbers &= value == value
    for i in range(row.size // BLOCK * BLOCK, row.size):
        numbers &= row[i] + bias[i] == row[i] + bias[i]
    return numbers


@compiled
def first_column(group):
    """The first of its columns; unsigned, because Numba checks a signed index for being negative, at every access."""
    return np.uint64(group // LANES * BLOCK + group % LANES)


@compiled
def groups_reaching(maxima, bound, groups):
    """The groups whose maximum is at least `bound`. Returns: how many."""
    n = 0
    for g in range(maxima.size):
        groups[n] = g
        n += maxima[g] >= bound
    return n


@compiled
def take_tile(start, stop, tile, bias, first, k, values, columns, counts, bounds):
    """Find the candidates in rows start to stop - 1 of one tile; `first`: the number of its first column.

    values, columns: [B, capacity], counts[b] of them candidates; capacity at least k + DEPTH. bounds: [B], -inf at
    first, and NaN once a row had a NaN, so that no value reaches it.
    """
    n_columns, capacity = tile.shape[1], values.shape[1]
    n_groups = n_columns // BLOCK * LANES
    # One more place in `groups`: groups_reaching writes every group before it knows whether the group counts.
    maxima, groups = np.empty(n_groups, values.dtype), np.empty(n_groups + 1, np.int64)
    for b in range(start, stop):
        n, bound, row, row_values, row_columns = counts[b], bounds[b], tile[b], values[b], columns[b]
        if not group_maxima(row, bias, maxima):
            counts[b], bounds[b] = 0, np.nan
            continue
        # k groups whose maxima reach a bound hold k values that do. To stop once no more than k + k / 8 reach it saves
        # the last halvings, which cost more than a few candidates too many.
        if bound == -np.inf and n_groups >= k:
            bound = bound_between(maxima, n_groups, k, k + k // 8)
        for g in groups[: groups_reaching(maxima, bound, groups)]:
            if n + DEPTH > capacity:
                bound = keep_k(row_values, row_columns, n, k)
                n = k
            i = first_column(g)
            for _ in range(DEPTH):
                value = row[i] + bias[i]
                if value >= bound:
                    row_values[n], row_columns[n] = value, first + np.int64(i)
                    n += 1
                i += np.uint64(LANES)
        for i in range(n_columns // BLOCK * BLOCK, n_columns):
            value = row[i] + bias[i]
            if value >= bound:
                if n == capacity:
                    bound = keep_k(row_values, row_columns, n, k)
                    n = k
                row_values[n], row_columns[n] = value, first + i
                n += 1
        if n >= 2 * k:  # a higher bound for the next tile is worth the work only now and then
            bound = keep_k(row_values, row_columns, n, k)
            n = k
        counts[b], bounds[b] = n, bound


@compiled
def take_out(start, stop, k, values, columns, counts, out_values, out_columns):
    """The k largest candidates of rows start to stop - 1, in no order; NaN where a row has fewer than k numbers."""
    for b in range(start, stop):
        n = counts[b]
        if n < k:
            out_values[b, :] = np.nan
            out_columns[b, :] = np.arange(k)
            continue
        if n > k:
            keep_k(values[b], columns[b], n, k)
        for i in range(k):
            out_values[b, i], out_columns[b, i] = values[b, i], columns[b, i]


@compiled
def entries_above(start, stop, tile, bias, threshold):
    """Where tile + bias is above the threshold, in rows start to stop - 1. Returns: values, rows, columns."""
    n_columns = tile.shape[1]
    n_groups = n_columns // BLOCK * LANES
    maxima, groups = np.empty(n_groups, tile.dtype), np.empty(n_groups + 1, np.int64)
    capacity = (stop - start) * n_columns  # pages that are never written take no memory
    values, rows, columns = np.empty(capacity, tile.dtype), np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    n = 0
    for b in range(start, stop):
        row = tile[b]
        if not group_maxima(row, bias, maxima):
            maxima[:] = np.inf  # a group with a NaN may also hold a value above the threshold
        for g in groups[: groups_reaching(maxima, threshold, groups)]:
            i = first_column(g)
            for _ in range(DEPTH):
                value = row[i] + bias[i]
                if value > threshold:
                    values[n], rows[n], columns[n] = value, b, i
                    n += 1
                i += np.uint64(LANES)
        for i in range(n_columns // BLOCK * BLOCK, n_columns):
            value = row[i] + bias[i]
            if value > threshold:
                values[n], rows[n], columns[n] = value, b, i
                n += 1
    return values[:n].copy(), rows[:n].copy(), columns[:n].copy()
