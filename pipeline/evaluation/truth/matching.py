"""Which latent stands for which feature, by directions, as sae_lens.synthetic.evals and seed 002 have it."""

from typing import NamedTuple

from torch import Tensor

from strata_sae.pipeline.kernels.assignment import cheapest_pairs

SMALLEST_NORM = 1e-8
"""Shorter rows count as this long, so that a row of zeros has cosine 0 to all; SAELens' number."""


class Pairs(NamedTuple):
    """One latent for each feature and one feature for each latent, as far as both reach."""

    latents: Tensor
    """int64 [min(E, G)]"""
    features: Tensor


def cosines(rows_EM: Tensor, features_GM: Tensor) -> Tensor:
    """The cosine of each row to each feature: float64 [E, G]."""
    unit_EM, unit_GM = (
        rows.double() / rows.double().norm(dim=1, keepdim=True).clamp(min=SMALLEST_NORM)
        for rows in (rows_EM, features_GM)
    )
    return unit_EM @ unit_GM.T


def assigned(cosine_EG: Tensor) -> Pairs:
    """The one-to-one assignment with the largest sum of |cosine| (Hungarian algorithm)."""
    return Pairs(*cheapest_pairs(1 - cosine_EG.abs()))


def mean_correlation(cosine_EG: Tensor, pairs: Pairs) -> float:
    """MCC: the mean |cosine| of the assigned pairs."""
    return float(cosine_EG.abs()[pairs.latents, pairs.features].mean())


def uniqueness(cosine_EG: Tensor) -> float:
    """Different features that are some latent's best by |cosine|, over latents."""
    return len(cosine_EG.abs().argmax(dim=1).unique()) / len(cosine_EG)


class PairDetection(NamedTuple):
    """Of latents with two children, by the features that parent + first child and parent + second child are nearest."""

    pair: float
    """Share whose two are the two children of one parent."""
    single: float
    """Share whose two are the same feature."""


def pair_detection(composed_ECM: Tensor, features_GM: Tensor) -> PairDetection:
    """Of E latents with two vectors each, where features 2 i and 2 i + 1 are siblings. Source: seed 002."""
    best_EC = cosines(composed_ECM.flatten(0, 1), features_GM).argmax(dim=1).view(-1, 2)
    same_E = best_EC[:, 0] == best_EC[:, 1]
    siblings_E = best_EC[:, 0] // 2 == best_EC[:, 1] // 2
    return PairDetection(float((siblings_E & ~same_E).double().mean()), float(same_E.double().mean()))
