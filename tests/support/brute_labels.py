"""Slow, plain forms of what queries compute: sets of tokens by trying all, examples by sorting everything."""

from collections import Counter
from itertools import combinations

import numpy as np

from strata_sae.pipeline.queries.examples import CONTEXT_AFTER, CONTEXT_BEFORE
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE, Text


def dense(run: CodedRun, sae: CodedSAE) -> np.ndarray:
    """The values of all latents on all rows, float32 [N, E], by the codes of each row."""
    values_NE = np.zeros((run.text.n_rows, sae.d_sae), np.float32)
    for latent in range(sae.d_sae):
        rows, values = sae.codes.rows_of(latent)
        values_NE[rows, latent] = values
    return values_NE


def f1_of(fires_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """2 TP / (PR + A); 0 where there is neither."""
    return 2 * int((fires_N & predicted_N).sum()) / max(1, int(fires_N.sum()) + int(predicted_N.sum()))


def best_f1(fires_N: np.ndarray, token_N: np.ndarray) -> float:
    """The largest F1 of any set of tokens: all of them are tried."""
    tokens = np.unique(token_N).tolist()
    sets = (some for n in range(len(tokens) + 1) for some in combinations(tokens, n))
    return max(f1_of(fires_N, np.isin(token_N, some)) for some in sets)


def context(text: Text, row: int) -> tuple[int, ...]:
    """The tokens around a row in its stretch of a document, -1 beyond it."""
    found = []
    for other in range(row - CONTEXT_BEFORE, row + CONTEXT_AFTER + 1):
        inside = 0 <= other < text.n_rows and text.document[other] == text.document[row]
        inside = inside and int(text.position[other]) - other == int(text.position[row]) - row
        found.append(int(text.token_id[other]) if inside else -1)
    return tuple(found)


def first_distinct(text: Text, pairs: list[tuple[int, float]], n: int) -> list[tuple[int, float]]:
    """The first n of (row, value) with contexts of their own."""
    seen: set[tuple[int, ...]] = set()
    found = []
    for row, value in pairs:
        if context(text, row) not in seen:
            seen.add(context(text, row))
            found.append((row, value))
    return found[:n]


def most_common(tokens: list[int], n: int) -> list[tuple[int, int]]:
    """Tokens and how often they come, the most frequent first, ties by token."""
    return sorted(Counter(tokens).items(), key=lambda pair: (-pair[1], pair[0]))[:n]
