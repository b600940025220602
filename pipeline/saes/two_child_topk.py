"""Two-child TopK: the k largest parents of a row are active, and with them some of their children."""

from typing import Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes, SparseCodes
from strata_sae.pipeline.kernels.machine.backend import backend_of
from strata_sae.pipeline.saes.base import SAE, Encoding, SAESettings, Workspace
from strata_sae.pipeline.saes.topk import check_k, k_at
from strata_sae.pipeline.schedules import Schedule


class TwoChildTopK(SAE):
    """One dictionary of n parents, their n first children and their n second children, in this order.

    A child can be active only where its parent is, so its pre-activation is computed only there. Codes hold, row by
    row, the k parents and then the k children that are the stronger ones; with `per_child_k`, that many first children
    and as many second ones. Source: seed 002 (sae_hacking, TopkSparseAutoEncoder2Child_v2; with per_child_k
    TopkSparseAutoEncoder2Child), with `signed: true`, `pre_bias: false`, `decoder: free`; its three decoder biases are
    one here: their sum.
    """

    class Settings(SAESettings):
        """Settings of the two-child TopK SAE."""

        architecture: Literal["two_child_topk"] = "two_child_topk"
        """The kind of SAE, which decides what other keys there are."""
        k: int | Schedule
        """Active parents per row (count)."""
        per_child_k: int | None = Field(default=None, gt=0)
        """Active first children per row, and as many second ones (count): the largest of those whose parents are
        active, where they are positive. null: of each active parent the stronger child. The source's SAE of TinyStories
        has half of k."""
        signed: bool = False
        """Whether negative pre-activations count as they are (the source), or as 0: latents then only ever add."""

        @field_validator("d_sae")
        @classmethod
        def _three_of_each(cls, d_sae: int) -> int:
            if d_sae % 3:
                raise ValueError(
                    f"d_sae ({d_sae}) must be a multiple of 3: a parent and two children; try {d_sae // 3 * 3}"
                )
            return d_sae

        @model_validator(mode="after")
        def _k_fits(self) -> "TwoChildTopK.Settings":
            n_parents = self.d_sae // 3
            check_k(self.k, n_parents, "the number of parents, d_sae / 3")
            smallest, largest = sorted(k_at(self.k, fraction_done) for fraction_done in (0.0, 1.0))
            if self.per_child_k is not None and self.per_child_k > smallest:
                raise ValueError(
                    f"per_child_k ({self.per_child_k}) must not exceed k ({smallest}): children are active with their "
                    "parents only; lower it"
                )
            # The source takes its largest among all children, 0 where the parent is not active, so that a negative one
            # is never taken while there are zeros enough.
            if self.per_child_k is not None and self.per_child_k > n_parents - largest:
                raise ValueError(
                    f"k ({largest}) and per_child_k ({self.per_child_k}) together must not exceed the number of "
                    f"parents, d_sae / 3 ({n_parents}); lower them or raise d_sae"
                )
            return self

    settings: Settings
    child_parent_ratio: Tensor | None
    """Running mean of each child's code divided by its parent's, [E]; 1 in the parents' places. Of a trained SAE whose
    objective had the term two_child_cosine, else None."""

    def __init__(self, settings: SAESettings, d_out: int, weights: dict[str, Tensor], d_in: int | None = None):
        super().__init__(settings, d_out, weights, d_in)
        self.child_parent_ratio = weights.get("child_parent_ratio")
        if self.child_parent_ratio is not None and tuple(self.child_parent_ratio.shape) != (self.d_sae,):
            raise ValueError(
                f"child_parent_ratio has shape {tuple(self.child_parent_ratio.shape)}, not ({self.d_sae},)"
            )

    @property
    def n_parents(self) -> int:
        """Parents (count): latents 0 to n_parents - 1."""
        return self.d_sae // 3

    def encode(self, x_BM: Tensor, *, fraction_done: float = 1.0, workspace: Workspace | None = None) -> Encoding:
        """The codes; `pre_BE` are the parents' pre-activations, [B, E / 3]."""
        n_parents, per_child_k = self.n_parents, self.settings.per_child_k
        out = None if workspace is None else workspace.buffer(x_BM.shape[0], n_parents, like=x_BM)
        x0_BM = self._encoder_input(x_BM)
        pre_BE = torch.addmm(self.b_enc[:n_parents], x0_BM, self.W_enc[:n_parents].T, out=out)
        parent_BK, places_BK = backend_of(pre_BE).row_topk(pre_BE, k_at(self.settings.k, fraction_done))
        first_BK, second_BK = self._children(x0_BM, places_BK)
        # A parent's first child is n_parents after it, its second one 2 * n_parents.
        if per_child_k is not None:
            parent_BK = parent_BK if self.settings.signed else parent_BK.clamp(min=0)
            values, latents = [parent_BK], [places_BK]
            for number, child_BK in enumerate((first_BK, second_BK), 1):
                # [B, per_child_k]; of negative ones none is active, as the zeros of other parents' children are larger.
                child_BK, chosen_BK = (child_BK * (parent_BK != 0)).clamp(min=0).topk(per_child_k, dim=1)
                values.append(child_BK)
                latents.append(places_BK.gather(1, chosen_BK) + number * n_parents)
            return Encoding(self._entries(torch.cat(values, dim=1), torch.cat(latents, dim=1)), pre_BE, x0_BM)
        first_wins_BK = first_BK > second_BK
        child_BK = torch.where(first_wins_BK, first_BK, second_BK)
        if not self.settings.signed:
            parent_BK, child_BK = parent_BK.clamp(min=0), child_BK.clamp(min=0)
        latents_BK = torch.cat([places_BK, places_BK + n_parents * (2 - first_wins_BK.long())], dim=1)
        values_BK = torch.cat([parent_BK, child_BK * (parent_BK != 0)], dim=1)
        return Encoding(self._entries(values_BK, latents_BK), pre_BE, x0_BM)

    def encode_inference(self, x_BM: Tensor, *, workspace: Workspace | None = None) -> Codes:
        """The codes with the final k."""
        return self.encode(x_BM, workspace=workspace).codes

    def _children(self, x0_BM: Tensor, places_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Pre-activations of the first and the second child of some parents of each row: both [B, K]."""
        latents_BK = torch.cat([places_BK + self.n_parents, places_BK + 2 * self.n_parents], dim=1)
        entries = self._entries(x0_BM.new_empty(latents_BK.shape), latents_BK)
        pre_BK = entries.dots(x0_BM, self.W_enc).view_as(latents_BK) + self.b_enc[latents_BK]
        first_BK, second_BK = pre_BK.chunk(2, dim=1)
        return first_BK, second_BK

    def _entries(self, values_BK: Tensor, latents_BK: Tensor) -> SparseCodes:
        n_rows, n_active = latents_BK.shape
        offsets = torch.arange(0, n_rows * n_active + 1, n_active, device=latents_BK.device)
        return SparseCodes(values_BK.reshape(-1), latents_BK.reshape(-1), offsets, self.d_sae)
