"""Loops over the rows of latents and their tokens: which tokens tell best when a latent fires, and how often.

N rows of the store, V tokens that occur in it (by rank, not id), E latents, P pairs of a row and an active latent.
"""

import numpy as np

from strata_sae.pipeline.kernels.machine.compiled.loops import _compile


@_compile()
def token_sets(
    offset: np.ndarray, row_P: np.ndarray, rank_N: np.ndarray, half_N: np.ndarray, totals_V: np.ndarray, n_named: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each latent the set of tokens whose F1 of 'it fires' is largest in half 0: no other set has a larger one.

    The largest of 2 TP(S) / (PR(S) + A) over all sets S, where TP adds up a token's active rows, PR its rows, and A is
    the number of active rows, is the fixed point of: S is the tokens of precision TP / PR above F1 / 2 (Dinkelbach,
    Management Science 13, 1967: the maximum of a ratio of sums). In whole numbers, so without rounding. Of sets that
    are equally good it is the smallest.

    offset int64 [E + 1] and row_P: the rows of each latent. rank_N: token of each row. half_N: 0, 1, or -1 for
    rows that do not count. totals_V int64 [2, V]: rows of each token in each half.
    Returns: active rows in each half, int64 [E, 2]; F1 in each half, float64 [E, 2] (0 / 0 is 0); size of the set,
    int32 [E]; its tokens that fire most often in both halves together, int32 [E, n_named], -1 for none; in how many
    rows, int32 [E, n_named].
    """
    n_latents, n_tokens = len(offset) - 1, totals_V.shape[1]
    active = np.zeros((n_latents, 2), np.int64)
    f1 = np.zeros((n_latents, 2), np.float64)
    size = np.zeros(n_latents, np.int32)
    named = np.full((n_latents, n_named), -1, np.int32)
    named_count = np.zeros((n_latents, n_named), np.int32)
    count = np.zeros((2, n_tokens), np.int64)
    touched = np.empty(n_tokens, np.int64)
    for latent in range(n_latents):
        n = 0
        for place in range(offset[latent], offset[latent + 1]):
            row = row_P[place]
            half, token = half_N[row], rank_N[row]
            if half < 0:
                continue
            active[latent, half] += 1
            if count[0, token] + count[1, token] == 0:
                touched[n] = token
                n += 1
            count[half, token] += 1
        hits, predicted = _best(count, totals_V, touched, n, active[latent, 0])
        test_hits, test_predicted = 0, 0
        for i in range(n):
            token = touched[i]
            if count[0, token] * (predicted + active[latent, 0]) > hits * totals_V[0, token]:
                size[latent] += 1
                test_hits += count[1, token]
                test_predicted += totals_V[1, token]
                _insert(named[latent], named_count[latent], token, count[0, token] + count[1, token])
        f1[latent, 0] = 2 * hits / max(predicted + active[latent, 0], 1)
        f1[latent, 1] = 2 * test_hits / max(test_predicted + active[latent, 1], 1)
        for i in range(n):
            count[0, touched[i]] = 0
            count[1, touched[i]] = 0
    return active, f1, size, named, named_count


@_compile()
def _best(count: np.ndarray, total: np.ndarray, touched: np.ndarray, n: int, active: int) -> tuple[int, int]:
    """Of the best set: rows of its tokens on which the latent fires, and rows of its tokens."""
    hits, predicted = 0, 0
    while True:
        more_hits, more_predicted = 0, 0
        for i in range(n):
            token = touched[i]
            if count[0, token] * (predicted + active) > hits * total[0, token]:
                more_hits += count[0, token]
                more_predicted += total[0, token]
        if more_hits == hits and more_predicted == predicted:
            return hits, predicted
        hits, predicted = more_hits, more_predicted


@_compile()
def _insert(named: np.ndarray, counts: np.ndarray, token: int, count: int) -> None:
    """Put a token in its place among those that fire most often; of equal ones the lower comes first."""
    at = len(named)
    while at > 0 and (
        named[at - 1] < 0 or counts[at - 1] < count or (counts[at - 1] == count and named[at - 1] > token)
    ):
        at -= 1
    if at == len(named):
        return
    for place in range(len(named) - 1, at, -1):
        named[place] = named[place - 1]
        counts[place] = counts[place - 1]
    named[at] = token
    counts[at] = count


@_compile()
def count_tokens(
    offset: np.ndarray,
    row_P: np.ndarray,
    rank_N: np.ndarray,
    half_N: np.ndarray,
    first_latent: int,
    at_V: np.ndarray,
    latent_Q: np.ndarray,
    count_Q: np.ndarray,
) -> None:
    """Of some latents, from first_latent on, on how many rows each fires on each token; by token, then by latent.

    Q pairs of a token and a latent that fires on it. at_V: where a token's next pair goes, which is moved on; where
    count_Q is empty, nothing is written, and at_V counts the pairs. half_N: -1 for rows that do not count.
    """
    count = np.zeros(len(at_V), np.int64)
    touched = np.empty(len(at_V), np.int64)
    for latent in range(len(offset) - 1):
        n = 0
        for place in range(offset[latent], offset[latent + 1]):
            row = row_P[place]
            if half_N[row] < 0:
                continue
            token = rank_N[row]
            if count[token] == 0:
                touched[n] = token
                n += 1
            count[token] += 1
        for i in range(n):
            token = touched[i]
            if len(count_Q):
                latent_Q[at_V[token]] = first_latent + latent
                count_Q[at_V[token]] = count[token]
            at_V[token] += 1
            count[token] = 0
