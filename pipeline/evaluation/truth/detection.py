"""Latents as detectors of features: precision, recall and F1, of each latent and of each feature."""

from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.evaluation.truth.matching import Pairs


class Quality(NamedTuple):
    """Means over latents or features; None where there is none."""

    precision: float | None
    recall: float | None
    f1: float | None


class Detection:
    """Counts of rows in which a latent is on, in which its feature is on, and in which both are.

    Of each latent: its feature is the best by |cosine|, as SAELens has it, so that a spare latent lowers the mean.
    Of each feature: its latent is the assigned one, so that spare latents change nothing.
    """

    def __init__(self, cosine_EG: Tensor, pairs: Pairs) -> None:
        n_latents, n_features = cosine_EG.shape
        device = cosine_EG.device
        self.best_E = cosine_EG.abs().argmax(dim=1)
        self.pairs = pairs
        self.latent_on_E = torch.zeros(n_latents, dtype=torch.int64, device=device)
        self.feature_on_G = torch.zeros(n_features, dtype=torch.int64, device=device)
        self.both_E = torch.zeros_like(self.latent_on_E)
        self.both_G = torch.zeros_like(self.feature_on_G)

    def update(self, on_BE: Tensor, on_BG: Tensor) -> None:
        """Take one batch in: whether each latent and each feature is on."""
        self.latent_on_E += on_BE.sum(dim=0)
        self.feature_on_G += on_BG.sum(dim=0)
        self.both_E += (on_BE & on_BG[:, self.best_E]).sum(dim=0)
        self.both_G[self.pairs.features] += (on_BE[:, self.pairs.latents] & on_BG[:, self.pairs.features]).sum(dim=0)

    def of_latents(self) -> Quality:
        """Means over all latents; what is 0/0 is 0, as SAELens has it."""
        return _quality(self.both_E, self.latent_on_E, self.feature_on_G[self.best_E])

    def of_features(self) -> Quality:
        """Means over the features that are on in any row; one without a latent has 0."""
        latent_on_G = torch.zeros_like(self.feature_on_G)
        latent_on_G[self.pairs.features] = self.latent_on_E[self.pairs.latents]
        seen_G = self.feature_on_G > 0
        return _quality(self.both_G[seen_G], latent_on_G[seen_G], self.feature_on_G[seen_G])


def _quality(both: Tensor, found: Tensor, true: Tensor) -> Quality:
    """From counts of both on, of the latent on, of the feature on."""
    if not len(both):
        return Quality(None, None, None)
    precision, recall, f1 = (
        (part / whole.clamp(min=1)).double().mean().item()
        for part, whole in ((both.double(), found), (both.double(), true), (2 * both.double(), found + true))
    )
    return Quality(precision, recall, f1)
