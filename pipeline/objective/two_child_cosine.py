"""Two-child cosine: a parent's direction should stay close to that of parent and child together."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from strata_sae.pipeline.kernels.codes import SparseCodes
from strata_sae.pipeline.objective.term import Step, Term, TermSettings
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.saes.two_child_topk import TwoChildTopK
from strata_sae.pipeline.schedules import Value, value_at


class TwoChildCosine(Term):
    """weight * -(mean over rows of sum over parents with z > 0 of cos(z w, z w + c v)).

    z and w: code and decoder row of the parent; c and v: of its active child. z, c and the choice of the child are
    constants. For the log and for readers, the term also keeps a running mean of c / z for every child, which the
    final file holds as `child_parent_ratio`. Source: seed 002 (sae_hacking: auxiliary_loss,
    update_parent_child_ratio3).
    """

    class Settings(TermSettings):
        """Settings of the two-child cosine term."""

        term: Literal["two_child_cosine"] = "two_child_cosine"
        """Name in TERMS."""
        weight: Value
        """Factor of this term in the loss; 0 leaves only the running mean (the source's default)."""
        ratio_momentum: float = Field(default=0.99, ge=0.0, lt=1.0)
        """Share of the running mean of child / parent that a step keeps. Default: the source's."""

    settings: Settings

    def __init__(self, settings: TermSettings):
        super().__init__(settings)
        self._ratio_E: Tensor | None = None  # of children; the parents' places stay 1

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Only where latents are parents and children."""
        if not isinstance(sae_settings, TwoChildTopK.Settings):
            raise ValueError(
                f"term {settings.term!r} fits the architecture 'two_child_topk', got {sae_settings.architecture!r}, "
                "whose latents have no children; remove it"
            )
        if sae_settings.per_child_k is not None:
            raise ValueError(
                f"term {settings.term!r} needs one active child for each active parent, and sae.per_child_k "
                f"({sae_settings.per_child_k}) activates any number; set per_child_k to null, or remove the term"
            )

    def add(self, step: Step) -> Tensor:
        """The penalty; only W_dec gets its gradient."""
        codes, sae = step.codes, step.sae
        assert isinstance(codes, SparseCodes)
        assert isinstance(sae, TwoChildTopK)
        n_rows, n, W_dec = codes.batch_size, sae.n_parents, sae.W_dec
        parent_BK, child_BK = codes.values_P.view(n_rows, -1).chunk(2, dim=1)
        parents_BK, children_BK = codes.indices_P.long().view(n_rows, -1).chunk(2, dim=1)
        self._count_ratio(codes, parent_BK, child_BK)
        step.monitors["two_child_cosine/child_parent_ratio"] = self._ratio(codes)[n:].mean()
        weight = value_at(self.settings.weight, step.fraction_done) / n_rows
        if weight == 0:
            return step.target_BM.new_zeros(())

        square_E = W_dec.square().sum(1)
        family_E = torch.cat([square_E[:n], *((W_dec[:n] * part).sum(1) for part in W_dec[n:].split(n))])
        cosine_BK, slopes = _cosines(
            parent_BK, child_BK, square_E[parents_BK], square_E[children_BK], family_E[children_BK]
        )
        by_parent, by_child, by_both = (torch.where(parent_BK > 0, slope_BK, 0.0) * -weight for slope_BK in slopes)
        own_E = codes.latent_sums(torch.cat([by_parent, by_child], dim=1).reshape(-1))
        both_E = codes.latent_sums(torch.cat([torch.zeros_like(by_both), by_both], dim=1).reshape(-1))
        gradient = W_dec * (2 * own_E)[:, None]
        for start in (n, 2 * n):
            shared_E = both_E[start : start + n, None]
            gradient[:n] += shared_E * W_dec[start : start + n]
            gradient[start : start + n] += shared_E * W_dec[:n]
        step.add_gradient("W_dec", gradient)
        return -weight * cosine_BK[parent_BK > 0].sum()

    def state(self) -> dict[str, Tensor]:
        """The running mean, once there is one."""
        return {} if self._ratio_E is None else {"child_parent_ratio": self._ratio_E}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved running mean."""
        self._ratio_E = state["child_parent_ratio"].clone() if "child_parent_ratio" in state else None

    def for_readers(self) -> dict[str, Tensor]:
        """The running mean: of codes over codes, so that it is the same in any unit of the rows."""
        return self.state()

    def _ratio(self, codes: SparseCodes) -> Tensor:
        if self._ratio_E is None:
            self._ratio_E = codes.values_P.new_ones(codes.n_latents)
        return self._ratio_E

    def _count_ratio(self, codes: SparseCodes, parent_BK: Tensor, child_BK: Tensor) -> None:
        """Update the running mean of every child that is active in the batch."""
        active_BK = (parent_BK != 0) & (child_BK != 0)
        ratio_BK = torch.where(active_BK, child_BK / parent_BK, 0.0)
        zeros_BK = torch.zeros_like(ratio_BK)
        sum_E = codes.latent_sums(torch.cat([zeros_BK, ratio_BK], dim=1).reshape(-1))
        count_E = codes.latent_sums(torch.cat([zeros_BK, active_BK.to(ratio_BK.dtype)], dim=1).reshape(-1))
        share_E = (count_E > 0).to(ratio_BK.dtype) * (1 - self.settings.ratio_momentum)
        self._ratio(codes).lerp_(sum_E / count_E.clamp(min=1), share_E)


def _cosines(z: Tensor, c: Tensor, a: Tensor, b: Tensor, d: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """cos(z w, z w + c v) for z > 0, and its derivatives by a = <w, w>, b = <v, v> and d = <w, v>. Any one shape."""
    along = z * a + c * d
    square = z * z * a + 2 * z * c * d + c * c * b
    scale = (a * square).clamp(min=torch.finfo(z.dtype).tiny).rsqrt()
    cosine = along * scale
    bend = cosine / 2 * scale.square()
    return cosine, (z * scale - bend * (square + a * z * z), -bend * a * c * c, c * scale - bend * 2 * a * z * c)
