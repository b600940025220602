"""Latents as points of a plane, and which decoder rows are near one."""

import importlib.util
from typing import Literal, NamedTuple

import numpy as np

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.queries.opened import CodedSAE

Layout = Literal["pca", "umap"]
_SEED = 0
_BLOCK = 4096
"""Decoder rows that are converted to float64 at once (count)."""


class Plane(NamedTuple):
    """Where each latent lies."""

    xy: np.ndarray
    """float32 [E, 2]; nan for a latent whose decoder row is zero."""
    explained: tuple[float, float] | None
    """Share of the variance of the unit decoder rows along each axis; None where axes have no such meaning."""


def nearest(sae: CodedSAE, latent: int, n: int) -> list[tuple[int, float]]:
    """The n latents whose decoder rows have the largest cosine with a latent's, largest first; ties by latent."""
    length_E = sae.decoder_norm_E
    if not length_E[latent]:
        return []
    cosine_E = sae.W_dec @ (sae.W_dec[latent] / length_E[latent])
    cosine_E = np.divide(cosine_E, length_E, out=np.full_like(cosine_E, -2), where=length_E > 0)
    cosine_E[latent] = -2
    order = np.argsort(-cosine_E, kind="stable")[:n]
    return [(int(other), float(cosine_E[other])) for other in order if cosine_E[other] > -2]


def pca(W_dec: np.ndarray) -> Plane:
    """The first two principal components of the unit decoder rows [E, M].

    Each axis points where its direction's largest entry (by size, the first of equals) is positive, so that the plane
    is the same for the same weights. Source: eigenvectors of the covariance, numpy.linalg.eigh.
    """
    E, M = W_dec.shape
    length_E = np.linalg.norm(W_dec, axis=1)
    there = np.flatnonzero(length_E > 0)
    xy = np.full((E, 2), np.nan, np.float32)
    if len(there) < 3 or M < 2:
        xy[there] = 0
        return Plane(xy, (0.0, 0.0))
    mean, moments = np.zeros(M), np.zeros((M, M))
    for start in range(0, len(there), _BLOCK):  # float64 of all rows at once would be twice the weights
        unit_BM = _unit(W_dec, length_E, there[start : start + _BLOCK])
        mean += unit_BM.sum(axis=0)
        moments += unit_BM.T @ unit_BM
    mean /= len(there)
    spread, axes_MM = np.linalg.eigh(moments / len(there) - np.outer(mean, mean))
    axes_M = axes_MM[:, [-1, -2]]
    axes_M = axes_M * np.where(axes_M[np.abs(axes_M).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    for start in range(0, len(there), _BLOCK):
        some = there[start : start + _BLOCK]
        xy[some] = (_unit(W_dec, length_E, some) - mean) @ axes_M
    total = max(float(spread.clip(0).sum()), 1e-30)
    return Plane(xy, (max(0.0, float(spread[-1])) / total, max(0.0, float(spread[-2])) / total))


def has_umap() -> bool:
    """Whether umap-learn is installed, which the extra `map` brings."""
    found = importlib.util.find_spec("umap")
    return found is not None and found.origin is not None  # a folder of that name has no origin


def umap(W_dec: np.ndarray) -> Plane:
    """UMAP of the decoder rows [E, M] by cosine, from a fixed seed.

    Source: McInnes, Healy, Melville, arXiv 1802.03426, by umap-learn with its own defaults.
    Raises: ConfigError if umap-learn is not installed.
    """
    if not has_umap():
        raise ConfigError("layout umap: umap-learn is not installed; install the extra `map`, or use layout pca")
    import umap as umap_learn

    length_E = np.linalg.norm(W_dec, axis=1)
    there = np.flatnonzero(length_E > 0)
    xy = np.full((len(W_dec), 2), np.nan, np.float32)
    if len(there) < 16:  # its graph wants more neighbours than that
        return pca(W_dec)
    made = umap_learn.UMAP(metric="cosine", random_state=_SEED, n_jobs=1)
    xy[there] = made.fit_transform(W_dec[there])
    return Plane(xy, None)


def _unit(W_dec: np.ndarray, length_E: np.ndarray, some: np.ndarray) -> np.ndarray:
    return W_dec[some].astype(np.float64) / length_E[some, None]
