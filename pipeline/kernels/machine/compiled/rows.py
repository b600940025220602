"""Loops over rows of matrices: sums and products of gathered rows, pairs of latents, and Adam's update.

Every sum runs in the order of its entries. A place is where a latent stands among the entries of codes, which are
sorted by row and, within a row, by latent. A pair of latents i < j is held once: at the first place of i in whose row j
is active, too. Counters for one latent at a time make sorting unnecessary; row by row, the few vectors that all pairs
of a row share stay in the cache.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import numpy as np

from strata_sae.pipeline.kernels.machine.compiled.loops import compiled, compiled_any_order, compiled_fused


@compiled_fused
def weighted_sums(start, stop, indices, table, offsets, weights, out):
    """out[s] = sum of weights[p] * table[indices[p]] over the entries p of stretch s."""
    n_columns = table.shape[1]
    # Four entries at a time: `total` is then read and written once for four products, not for each. The n % 4 entries
    # that are left over come first.
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
    """out[p] = <left[rows[p]], table[indices[p]]> for the entries start to stop - 1."""
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
    # float64: a bias can sum up every row of the batch, one after the other.
    for p in range(values.size):
        out[indices[p]] += values[p]


@compiled
def sort_by_index(indices, rows, n):
    """The order that sorts the entries by index, equal ones as they come; their rows in it; where each index begins.

    Returns: [P], [P], [n + 1].
    """
    # A counting sort: two passes over the entries, where a sort by comparison has log2(P) of them.
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


@compiled
def count_pairs(start, stop, first_latent, latents, ends, order, starts, least, room, partners, n_both, begins, counts):
    """Count how often latents first_latent + (start to stop - 1) are active together with larger ones.

    ends: of each place, where its row ends. order, starts: places by latent. Pairs of i and j that are active together
    at least min(least[i], least[j]) times (>= 1) are written from room[i] on: at begins[p], counts[p] of place p, each
    with its partner's place and the number of rows in which both are active.
    """
    together = np.zeros(least.size, np.int32)
    base = room[first_latent]
    for i in range(first_latent + start, first_latent + stop):
        for s in range(starts[i], starts[i + 1]):
            for q in range(order[s] + 1, ends[order[s]]):
                together[latents[q]] += 1
        n = room[i] - base
        for s in range(starts[i], starts[i + 1]):
            p = order[s]
            begins[p] = n
            for q in range(p + 1, ends[p]):
                j = latents[q]
                partners[n], n_both[n] = q, together[j]
                n += together[j] >= min(least[i], least[j])
                together[j] = 0  # below every least: at later places of i the pair is not written again
            counts[p] = n - begins[p]


@compiled
def gather_pairs(start, stop, begins, offsets, partners, n_both, out_partners, out_n_both):
    """Copy what `count_pairs` wrote into the order of the places: the pairs of place p begin at offsets[p]."""
    for p in range(start, stop):
        shift = begins[p] - offsets[p]
        for n in range(offsets[p], offsets[p + 1]):
            out_partners[n], out_n_both[n] = partners[n + shift], n_both[n + shift]


@compiled_any_order
def pair_dots(start, stop, latents, offsets, partners, table, out):
    """out[n] = <table[latent], table[partner's latent]> of the pairs of places start to stop - 1."""
    # Four partners at a time share each number of `one` once it is loaded, and have sums of their own.
    n_columns, zero = table.shape[1], table.dtype.type(0)
    for p in range(start, stop):
        one = table[latents[p]]
        odd = offsets[p] + (offsets[p + 1] - offsets[p]) % 4
        for n in range(offsets[p], odd):
            other, total = table[latents[partners[n]]], zero
            for m in range(n_columns):
                total += one[m] * other[m]
            out[n] = total
        for n in range(odd, offsets[p + 1], 4):
            a, b = table[latents[partners[n]]], table[latents[partners[n + 1]]]
            c, d = table[latents[partners[n + 2]]], table[latents[partners[n + 3]]]
            w, x, y, z = zero, zero, zero, zero
            for m in range(n_columns):
                w += one[m] * a[m]
                x += one[m] * b[m]
                y += one[m] * c[m]
                z += one[m] * d[m]
            out[n], out[n + 1], out[n + 2], out[n + 3] = w, x, y, z


@compiled
def both_ways(start, stop, rows, latents, offsets, partners, weights, out_offsets, out_latents, out_weights):
    """Write every pair of rows start to stop - 1 at both its places: the partner's latent, and the weight."""
    for b in range(start, stop):
        first, last = rows[b], rows[b + 1]
        ends = np.zeros(last - first, np.int64)
        for p in range(first, last):
            ends[p - first] += offsets[p + 1] - offsets[p]
            for n in range(offsets[p], offsets[p + 1]):
                ends[partners[n] - first] += 1
        total = 2 * offsets[first]
        for p in range(first, last):
            total += ends[p - first]
            out_offsets[p + 1] = total
            ends[p - first] = total - ends[p - first]
        for p in range(first, last):
            for n in range(offsets[p], offsets[p + 1]):
                q = partners[n]
                here, there = ends[p - first], ends[q - first]
                out_latents[here], out_weights[here] = latents[q], weights[n]
                out_latents[there], out_weights[there] = latents[p], weights[n]
                ends[p - first], ends[q - first] = here + 1, there + 1


@compiled_fused
def add_pair_sums(start, stop, width, latents, offsets, partners, weights, table, out):
    """out[latent of p] += sum of weight * table[partner] over the pairs of place p, place after place.

    Only columns start * width to stop * width - 1: several threads can then add to one row of `out`.
    """
    low, high = start * width, min(stop * width, table.shape[1])
    for p in range(latents.size):
        first, last = offsets[p], offsets[p + 1]
        if first == last:
            continue
        total = out[latents[p], low:high]
        odd = first + (last - first) % 4
        for n in range(first, odd):
            row, weight = table[partners[n], low:high], weights[n]
            for m in range(high - low):
                total[m] += weight * row[m]
        for n in range(odd, last, 4):
            a, b = table[partners[n], low:high], table[partners[n + 1], low:high]
            c, d = table[partners[n + 2], low:high], table[partners[n + 3], low:high]
            w, x, y, z = weights[n], weights[n + 1], weights[n + 2], weights[n + 3]
            for m in range(high - low):
                total[m] += (w * a[m] + x * b[m]) + (y * c[m] + z * d[m])


@compiled_any_order
def row_products(start, stop, gradient, W, products):
    """products[:, row]: of rows start to stop - 1, <gradient, gradient>, <gradient, W> and <W, W>."""
    zero = W.dtype.type(0)
    for row in range(start, stop):
        g, w = gradient[row], W[row]
        gg, gw, ww = zero, zero, zero
        for m in range(g.size):
            gg += g[m] * g[m]
            gw += g[m] * w[m]
            ww += w[m] * w[m]
        products[0, row], products[1, row], products[2, row] = gg, gw, ww


@compiled_any_order
def update_rows(
    start, stop, W, gradient, mean, square, along, unit, scale, beta1, rest1, beta2, rest2, size, root, epsilon, shrink
):
    """Change rows start to stop - 1 of W, mean and square in place: projection, clip, AdamW, and norm 1 if `unit`.

    The gradient is scale * (gradient - along * W), row by row; size and root: the step size, and the square root of the
    second moment's correction. All numbers in W's dtype.
    """
    # rest1 and rest2 are 1 - beta, computed in float64: in float32, 1 - 0.999 would be 1.3e-5 of itself off.
    # One pass over four matrices; PyTorch's operations would make a pass for each part of it (docs/decisions/0012).
    one = W.dtype.type(1)
    tiny = W.dtype.type(np.finfo(W.dtype).eps)  # as PyTorch's operations do it: a row of zeros stays 0
    for row in range(start, stop):
        w, g, first, second, a = W[row], gradient[row], mean[row], square[row], along[row]
        norm = W.dtype.type(0)
        for m in range(w.size):
            slope = scale * (g[m] - a * w[m])
            first[m] = beta1 * first[m] + rest1 * slope
            second[m] = beta2 * second[m] + rest2 * slope * slope
            w[m] = shrink * w[m] - size * first[m] / (np.sqrt(second[m]) / root + epsilon)
            norm += w[m] * w[m]
        if unit:
            factor = one / (np.sqrt(norm) + tiny)
            for m in range(w.size):
                w[m] *= factor
