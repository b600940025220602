"""Loops that count on how many rows two latents are active together, for a block of latents at a time.

R rows of a piece, P pairs (row, latent) of it, E latents, B latents of a block [start, stop). Row numbers count from
the first row of the piece; offsets are int64. Never E x E: what a block is counted in is [B, E].
"""

import numpy as np

from strata_sae.pipeline.kernels.machine.compiled.loops import _compile

NOBODY = 2**32 - 1
"""In lists of partners: there is none."""


@_compile()
def kept_pairs(row_offset: np.ndarray, row_latent: np.ndarray, kept_R: np.ndarray, latent: np.ndarray) -> np.ndarray:
    """Of a piece without the pairs of rows that are not kept: offsets, int64 [R + 1]; latents go into `latent`.

    latent: [at least as many as are kept], of the type that latents are kept in.
    """
    offset = np.zeros(len(kept_R) + 1, np.int64)
    n = 0
    for row in range(len(kept_R)):
        if kept_R[row]:
            for place in range(row_offset[row], row_offset[row + 1]):
                latent[n] = row_latent[place]
                n += 1
        offset[row + 1] = n
    return offset


@_compile()
def add_counts(latents: np.ndarray, count_E: np.ndarray) -> None:
    """Add how often each latent is there."""
    for latent in latents:  # np.bincount would make a copy of all of them in int64
        count_E[latent] += 1


@_compile()
def block_postings(
    row_offset: np.ndarray, row_latent: np.ndarray, cursor_R: np.ndarray, count_B: np.ndarray, start: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a block's latents, `start` and after: offsets int64 [B + 1], rows uint32, rising in each latent.

    count_B: on how many rows each is active. cursor_R: int32, in each row the place, from the row's first, of the first
    latent that is not below `start`; moved past the block. Blocks are asked for one after the other, so that a row is
    never searched.
    """
    stop = start + len(count_B)
    offset = np.zeros(len(count_B) + 1, np.int64)
    for latent in range(len(count_B)):
        offset[latent + 1] = offset[latent] + count_B[latent]
    at = offset[:-1].copy()
    rows = np.empty(offset[-1], np.uint32)
    for row in range(len(cursor_R)):
        place, end = row_offset[row] + cursor_R[row], row_offset[row + 1]
        while place < end and row_latent[place] < stop:
            latent = row_latent[place] - start
            rows[at[latent]] = row
            at[latent] += 1
            place += 1
        cursor_R[row] = place - row_offset[row]
    return offset, rows


@_compile()
def add_together(
    first: int,
    last: int,
    posting_offset: np.ndarray,
    posting_row: np.ndarray,
    row_offset: np.ndarray,
    row_latent: np.ndarray,
    together_BE: np.ndarray,
) -> None:
    """For latents [first, last) of a block: add the rows that each shares with every latent of the rows."""
    # A latent after the other: what is counted in is then one row of E numbers, which stays in the cache.
    for latent in range(first, last):
        for posting in range(posting_offset[latent], posting_offset[latent + 1]):
            row = posting_row[posting]
            for place in range(row_offset[row], row_offset[row + 1]):
                together_BE[latent, row_latent[place]] += 1


@_compile()
def add_together_above(
    first: int,
    last: int,
    posting_offset: np.ndarray,
    posting_row: np.ndarray,
    row_offset: np.ndarray,
    row_latent: np.ndarray,
    together_BE: np.ndarray,
    start: int,
) -> None:
    """As `add_together`, with latents of a higher number alone: half of the work. The block begins at `start`."""
    for latent in range(first, last):
        for posting in range(posting_offset[latent], posting_offset[latent + 1]):
            row = posting_row[posting]
            place = row_offset[row + 1] - 1
            while row_latent[place] > start + latent:  # it stops at the latent itself at the latest
                together_BE[latent, row_latent[place]] += 1
                place -= 1


@_compile()
def pairs_above(together_BE: np.ndarray, start: int, least: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (first, second, count) of a block with first < second and count >= least, by first, then by second."""
    n = 0
    for latent in range(together_BE.shape[0]):
        for other in range(start + latent + 1, together_BE.shape[1]):
            n += together_BE[latent, other] >= least
    first, second, count = np.empty(n, np.uint32), np.empty(n, np.uint32), np.empty(n, np.uint32)
    n = 0
    for latent in range(together_BE.shape[0]):
        for other in range(start + latent + 1, together_BE.shape[1]):
            if together_BE[latent, other] >= least:
                first[n], second[n], count[n] = start + latent, other, together_BE[latent, other]
                n += 1
    return first, second, count


@_compile()
def most_together(together_BE: np.ndarray, start: int, partner_BK: np.ndarray, count_BK: np.ndarray) -> None:
    """The K partners of each latent of a block by count falling, ties by latent rising; never itself, never count 0.

    partner_BK, count_BK: uint32, written; NOBODY and 0 where there are fewer.
    """
    n_most = partner_BK.shape[1]
    for latent in range(together_BE.shape[0]):
        n, least = 0, np.uint32(0)  # nearly all have no more than `least` rows, so that is asked first
        for other in range(together_BE.shape[1]):
            count = together_BE[latent, other]
            if count <= least or other == start + latent:
                continue
            place = min(n, n_most - 1)
            while place > 0 and count_BK[latent, place - 1] < count:
                count_BK[latent, place] = count_BK[latent, place - 1]
                partner_BK[latent, place] = partner_BK[latent, place - 1]
                place -= 1
            count_BK[latent, place], partner_BK[latent, place] = count, other
            n = min(n + 1, n_most)
            if n == n_most:
                least = count_BK[latent, n_most - 1]
        for place in range(n, n_most):
            count_BK[latent, place], partner_BK[latent, place] = 0, NOBODY


@_compile()
def best_jaccard(
    together_BF: np.ndarray, count_B: np.ndarray, count_F: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each latent of a block the latent of another SAE with the largest Jaccard index of their rows.

    together / (count + count of the other - together), ties by latent rising. Returns: latent int64 [B], -1 where no
    row is shared; index float64 [B]; rows shared int64 [B].
    """
    n_latents, n_others = together_BF.shape
    who, index, together = np.full(n_latents, -1, np.int64), np.zeros(n_latents), np.zeros(n_latents, np.int64)
    for latent in range(n_latents):
        for other in range(n_others):
            shared = np.int64(together_BF[latent, other])
            if shared > 0:
                value = shared / (count_B[latent] + count_F[other] - shared)
                if value > index[latent]:
                    who[latent], index[latent], together[latent] = other, value, shared
    return who, index, together


@_compile()
def mostly_inside(
    together_BF: np.ndarray, start: int, count_B: np.ndarray, count_F: np.ndarray, least_inside: float, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (latent, other, rows shared) of which the other lies mostly inside the latent; by latent, then by other.

    At least `least_inside` of the other's rows are the latent's, and at least `least` of the latent's are the other's.
    """
    n_latents, n_others = together_BF.shape
    n = 0
    for latent in range(n_latents):
        for other in range(n_others):
            shared = together_BF[latent, other]
            n += shared > 0 and shared >= least_inside * count_F[other] and shared >= least * count_B[latent]
    first, second, together = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    n = 0
    for latent in range(n_latents):
        for other in range(n_others):
            shared = together_BF[latent, other]
            if shared > 0 and shared >= least_inside * count_F[other] and shared >= least * count_B[latent]:
                first[n], second[n], together[n] = start + latent, other, shared
                n += 1
    return first, second, together


@_compile()
def add_of_rows(rows: np.ndarray, row_offset: np.ndarray, row_latent: np.ndarray, together_E: np.ndarray) -> None:
    """Add how many of some rows each latent is active on."""
    for row in rows:
        for place in range(row_offset[row], row_offset[row + 1]):
            together_E[row_latent[place]] += 1


@_compile()
def add_of_pairs(
    posting_offset: np.ndarray, posting_row: np.ndarray, first_Q: np.ndarray, second_Q: np.ndarray, count_Q: np.ndarray
) -> None:
    """Add the rows that the two latents of each of Q pairs share, by going along both lists of rows."""
    for pair in range(len(first_Q)):
        a, a_end = posting_offset[first_Q[pair]], posting_offset[first_Q[pair] + 1]
        b, b_end = posting_offset[second_Q[pair]], posting_offset[second_Q[pair] + 1]
        n = 0
        while a < a_end and b < b_end:
            if posting_row[a] == posting_row[b]:
                n, a, b = n + 1, a + 1, b + 1
            elif posting_row[a] < posting_row[b]:
                a += 1
            else:
                b += 1
        count_Q[pair] += n


@_compile()
def wanted_postings(
    row_offset: np.ndarray, row_latent: np.ndarray, is_wanted_E: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the latents that are wanted: offsets int64 [E + 1], rows uint32, rising in each latent."""
    offset = np.zeros(len(is_wanted_E) + 1, np.int64)
    for latent in row_latent:
        offset[latent + 1] += is_wanted_E[latent]
    for latent in range(len(is_wanted_E)):
        offset[latent + 1] += offset[latent]
    at = offset[:-1].copy()
    rows = np.empty(offset[-1], np.uint32)
    for row in range(len(row_offset) - 1):
        for place in range(row_offset[row], row_offset[row + 1]):
            latent = row_latent[place]
            if is_wanted_E[latent]:
                rows[at[latent]] = row
                at[latent] += 1
    return offset, rows


@_compile()
def add_between_children(
    row_offset: np.ndarray,
    row_latent: np.ndarray,
    other_offset: np.ndarray,
    other_latent: np.ndarray,
    child_offset: np.ndarray,
    child: np.ndarray,
    n_others: int,
    between_CK: np.ndarray,
) -> None:
    """Over the rows of both SAEs: on how many of a parent's rows two of its children are active, for every two.

    child_offset int64 [E + 1], child int64 [C]: the children, of `n_others` latents, of each of E parents, at most K a
    parent. Added to: between_CK, uint32, at child and at the place of an earlier child of the same parent.
    """
    last_row_F = np.full(n_others, -1, np.int64)
    for row in range(len(row_offset) - 1):
        for place in range(other_offset[row], other_offset[row + 1]):
            last_row_F[other_latent[place]] = row
        for place in range(row_offset[row], row_offset[row + 1]):
            first = child_offset[row_latent[place]]
            for number in range(first, child_offset[row_latent[place] + 1]):
                if last_row_F[child[number]] == row:
                    for earlier in range(first, number):
                        between_CK[number, earlier - first] += last_row_F[child[earlier]] == row


@_compile()
def add_of_children(
    row_offset: np.ndarray,
    row_latent: np.ndarray,
    other_offset: np.ndarray,
    other_latent: np.ndarray,
    child_offset: np.ndarray,
    child: np.ndarray,
    n_others: int,
    covered_E: np.ndarray,
) -> None:
    """Over the rows of both SAEs: on how many of a parent's rows at least one of its children is active.

    As `add_between_children`; added to: covered_E, int64.
    """
    last_row_F = np.full(n_others, -1, np.int64)
    for row in range(len(row_offset) - 1):
        for place in range(other_offset[row], other_offset[row + 1]):
            last_row_F[other_latent[place]] = row
        for place in range(row_offset[row], row_offset[row + 1]):
            parent = row_latent[place]
            for number in range(child_offset[parent], child_offset[parent + 1]):
                if last_row_F[child[number]] == row:
                    covered_E[parent] += 1
                    break
