"""What else is known of every latent: those nearest to it, those it fires with, its place on a map."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.export.viewers.subject import Subject

_LATENTS_AT_ONCE = 256
"""Rows of cosines held at once: 64 MiB at 65,536 latents."""


class Nearest(NamedTuple):
    """The latents whose decoder directions have the largest cosine with those of some latents, the largest first."""

    latents: np.ndarray
    """int64 [B, n]."""
    cosines: np.ndarray
    """float32 [B, n]."""


class Partners(NamedTuple):
    """The latents that fire together with one most often."""

    latents: list[int]
    phi: list[float]
    """Pearson's correlation of firing: 1 where a latent is active, else 0."""
    cosine: list[float]
    """Of the same."""
    jaccard: list[float]


def nearest(subject: Subject, n: int) -> Iterator[Nearest]:
    """The n nearest of each latent but itself, block by block in order; fewer if there are fewer."""
    W_dec = subject.sae.W_dec
    n = min(n, len(W_dec) - 1)
    norm_E = np.linalg.norm(W_dec, axis=1, keepdims=True)
    unit_EM = np.divide(W_dec, norm_E, out=np.zeros_like(W_dec), where=norm_E > 0)
    for start in range(0, len(unit_EM), _LATENTS_AT_ONCE):
        cosine_BE = unit_EM[start : start + _LATENTS_AT_ONCE] @ unit_EM.T
        places = np.arange(len(cosine_BE))
        cosine_BE[places, start + places] = -2
        some_Bn = np.argpartition(cosine_BE, -n, axis=1)[:, -n:] if n else np.empty((len(cosine_BE), 0), np.int64)
        cosines = np.take_along_axis(cosine_BE, some_Bn, axis=1)
        order = np.lexsort((some_Bn, -cosines), axis=1)
        yield Nearest(np.take_along_axis(some_Bn, order, axis=1), np.take_along_axis(cosines, order, axis=1))


def partners(subject: Subject, latent: int, n: int) -> Partners:
    """The n that fire together with a latent most often, by the table of the codes.

    n_ab rows with both, n_a and n_b with each, N in all: phi = (N n_ab - n_a n_b) / sqrt(n_a (N - n_a) n_b (N - n_b)),
    cosine n_ab / sqrt(n_a n_b), Jaccard's index n_ab / (n_a + n_b - n_ab).
    """
    table = subject.sae.codes.table
    together = table["partner_counts"][latent].astype(np.float64)
    some = np.flatnonzero((table["partners"][latent] < subject.sae.d_sae) & (together > 0))[:n]
    others, both = table["partners"][latent][some].astype(np.int64), together[some]
    a, b, N = float(table["count"][latent]), table["count"][others].astype(np.float64), float(subject.n_kept)
    spread = np.sqrt(a * (N - a)) * np.sqrt(b * (N - b))
    phi = np.divide(N * both - a * b, spread, out=np.zeros_like(both), where=spread > 0)
    return Partners(others.tolist(), phi.tolist(), (both / np.sqrt(a * b)).tolist(), (both / (a + b - both)).tolist())
