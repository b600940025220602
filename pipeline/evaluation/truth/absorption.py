"""What becomes of a parent's feature where one of its children is on. Source: seed 000, toy_absorption.py."""

from dataclasses import dataclass

import torch
from torch import Tensor

from strata_sae.pipeline.evaluation.truth.matching import cosines
from strata_sae.pipeline.runs.truth_records import ChildStatus, ChildTruth

ALIVE_SHARE = 1e-4
"""Latents that are on in fewer of the rows stand for no feature; the source's number."""
LEAST_COSINE = 0.5
"""A latent stands for a feature only if its direction has at least this cosine to it."""
HALF = 0.5
"""A parent is lost in a row if less than this share of it is in the reconstruction; in b_dec, if at least this share of
its mean is there."""


@dataclass(frozen=True)
class Family:
    """Children and parents among G features, and the latents that stand for them."""

    children_C: Tensor
    """Numbers of the features that have a parent, int64."""
    parents_C: Tensor
    """The parent of each."""
    latent_G: Tensor
    """The latent that stands for each feature, or -1."""
    in_bias_G: Tensor
    """Whether b_dec carries the feature."""

    def status(self, child: int, parent: int) -> ChildStatus:
        """Whether absorption of this child can be measured."""
        of_child, of_parent = int(self.latent_G[child]), int(self.latent_G[parent])
        if of_parent < 0:
            return "parent carried by b_dec" if self.in_bias_G[parent] else "parent not found"
        if of_child < 0:
            return "child not found"
        return "one latent for both" if of_child == of_parent else "measured"


class Contributions:
    """Sums over rows of the codes where each feature is on: what decides which latent stands for it.

    The latent of a feature is the one with the largest mean of code * <decoder row, feature> over the rows that hold
    the feature, among latents that are alive; it must point there, too, or the feature has none.
    """

    def __init__(self, n_features: int, n_latents: int, device: torch.device) -> None:
        self.code_GE = torch.zeros(n_features, n_latents, dtype=torch.float64, device=device)
        self.amplitude_G = torch.zeros(n_features, dtype=torch.float64, device=device)
        self.on_E = torch.zeros(n_latents, dtype=torch.int64, device=device)
        self.on_G = torch.zeros(n_features, dtype=torch.int64, device=device)
        self.n_rows = 0

    def update(self, codes_BE: Tensor, amplitude_BG: Tensor) -> None:
        """Take one batch in; float64 both."""
        on_BG = amplitude_BG > 0
        self.code_GE += on_BG.double().T @ codes_BE
        self.amplitude_G += amplitude_BG.sum(dim=0)
        self.on_E += (codes_BE != 0).sum(dim=0)
        self.on_G += on_BG.sum(dim=0)
        self.n_rows += len(codes_BE)

    def family(self, W_EM: Tensor, b_M: Tensor, features_GM: Tensor, parent_G: Tensor) -> Family:
        """The latents of all features. b_M: b_dec without what is in every row by construction."""
        alive_E = self.on_E > ALIVE_SHARE * self.n_rows
        score_GE = self.code_GE * (features_GM @ W_EM.T)
        score_GE = score_GE.masked_fill(~alive_E, -torch.inf)
        latent_G = score_GE.argmax(dim=1)
        places_G = torch.arange(len(features_GM), device=latent_G.device)
        points_there_G = cosines(W_EM, features_GM)[latent_G, places_G] >= LEAST_COSINE
        found_G = points_there_G & (self.on_G > 0) & alive_E[latent_G] & (score_GE[places_G, latent_G] > 0)
        mean_G = self.amplitude_G / self.on_G.clamp(min=1)
        length_G = features_GM.norm(dim=1).clamp(min=1e-300)
        in_bias_G = (self.on_G > 0) & (features_GM @ b_M / length_G >= HALF * mean_G * length_G)
        children_C = (parent_G >= 0).nonzero().squeeze(1)
        return Family(children_C, parent_G[children_C], latent_G.masked_fill(~found_G, -1), in_bias_G)


class Absorption:
    """Counts and sums over the rows of each child, once it is known which latents to look at."""

    def __init__(self, family: Family, W_EM: Tensor, bias_M: Tensor, features_GM: Tensor) -> None:
        self.family, self.bias_M = family, bias_M
        self.child_latent_C = family.latent_G[family.children_C]
        self.parent_latent_C = family.latent_G[family.parents_C]
        self.parent_CM = features_GM[family.parents_C]
        self.leakage_C = (W_EM[self.child_latent_C] * self.parent_CM).sum(dim=1)
        self.own_C = (W_EM[self.parent_latent_C] * self.parent_CM).sum(dim=1)
        none = torch.zeros(len(family.children_C), dtype=torch.float64, device=W_EM.device)
        self.rows_C, self.fired_C, self.lost_C, self.below_C = (none.clone() for _ in range(4))
        self.with_child_C, self.alone_rows_C, self.alone_C = (none.clone() for _ in range(3))

    def update(self, codes_BE: Tensor, xhat_BM: Tensor, amplitude_BG: Tensor) -> None:
        """Take one batch in; float64 all."""
        parents_C, on_BG = self.family.parents_C, amplitude_BG > 0
        child_on_BC, parent_on_BC = on_BG[:, self.family.children_C], on_BG[:, parents_C]
        # What is not found has latent -1, the last one; what is counted of it is not shown.
        fired_BC = child_on_BC & (codes_BE[:, self.child_latent_C] != 0)
        parent_code_BC = codes_BE[:, self.parent_latent_C]
        projected_BC = (xhat_BM - self.bias_M) @ self.parent_CM.T
        whole_BC = amplitude_BG[:, parents_C] * self.parent_CM.square().sum(dim=1)
        any_child_BG = torch.zeros_like(amplitude_BG).index_add_(1, parents_C, child_on_BC.double()) > 0
        alone_BC = parent_on_BC & ~any_child_BG[:, parents_C]
        self.rows_C += child_on_BC.sum(dim=0)
        self.fired_C += fired_BC.sum(dim=0)
        self.lost_C += (fired_BC & (parent_code_BC == 0)).sum(dim=0)
        self.below_C += (child_on_BC & (projected_BC < HALF * whole_BC)).sum(dim=0)
        self.with_child_C += (parent_code_BC * child_on_BC).sum(dim=0) * self.own_C
        self.alone_rows_C += alone_BC.sum(dim=0)
        self.alone_C += (parent_code_BC * alone_BC).sum(dim=0) * self.own_C

    def found(self) -> list[ChildTruth]:
        """Of each child, null where a guard says that the number would mean nothing."""
        family = self.family
        pairs = zip(family.children_C.tolist(), family.parents_C.tolist(), strict=True)
        return [self._of(place, child, parent) for place, (child, parent) in enumerate(pairs)]

    def _of(self, place: int, child: int, parent: int) -> ChildTruth:
        status = self.family.status(child, parent)
        rows, fired, lost = (int(counts[place]) for counts in (self.rows_C, self.fired_C, self.lost_C))
        has_child, has_parent = (int(self.family.latent_G[feature]) >= 0 for feature in (child, parent))
        with_child = _ratio(float(self.with_child_C[place]), rows)
        alone = _ratio(float(self.alone_C[place]), float(self.alone_rows_C[place]))
        kept = None if with_child is None or alone is None else _ratio(with_child, alone)
        return ChildTruth(
            child=child,
            parent=parent,
            status=status,
            n_rows=rows,
            n_rows_fired=fired if has_child else 0,
            latent_absorption=_ratio(lost, fired) if status == "measured" else None,
            projection_absorption=_ratio(float(self.below_C[place]), rows),
            leakage=float(self.leakage_C[place]) if has_child else None,
            suppression=1.0 - kept if has_parent and kept is not None else None,
        )


def _ratio(part: float, whole: float) -> float | None:
    """None where it is 0/0 or a number over 0."""
    return part / whole if whole else None
