"""OrtSAE: every latent is pushed away from its most similar one, among a random share of all latents."""

import hashlib
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from strata_sae.pipeline.kernels.codes import SparseCodes
from strata_sae.pipeline.objective.term import Step, Term, TermSettings
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.schedules import Value, value_at

TILE_ROWS = 1024
"""Latents whose cosines with their chunk are in memory together (count): 32 MB in float32 at chunks of 8192."""


class OrtSAE(Term):
    """weight * mean over latents i of (max over j != i of i's chunk of cos(W_dec[i], W_dec[j]))^2.

    A step cuts the latents into random chunks; the gradient flows through each latent's nearest one only. One chunk of
    all latents gives a static penalty over all pairs. Source: Korznikov et al. 2025, arXiv 2509.22033.
    """

    class Settings(TermSettings):
        """Settings of the OrtSAE term."""

        term: Literal["ort_sae"] = "ort_sae"
        """Name in TERMS."""
        weight: Value = 0.25
        """Factor of this term in the loss: gamma."""
        chunk_size: int = Field(default=8192, gt=1)
        """Most latents that are compared with each other (count); chunks are as equal as they can be."""
        every_steps: int = Field(default=5, gt=0)
        """The term acts in every such step, and in no other (count). Default: the paper's."""
        seed: int = Field(default=0, ge=0)
        """Decides the chunks, together with the step's number."""

    settings: Settings

    def __init__(self, settings: TermSettings):
        super().__init__(settings)
        self._n_steps = 0

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Every chunk needs two latents."""
        assert isinstance(settings, cls.Settings)
        n_chunks = -(-sae_settings.d_sae // settings.chunk_size)
        if sae_settings.d_sae < 2 * n_chunks:
            raise ValueError(
                f"term 'ort_sae' with chunk_size {settings.chunk_size} cuts d_sae {sae_settings.d_sae} into {n_chunks} "
                "chunks, of which one has a single latent; raise chunk_size or d_sae"
            )

    def add(self, step: Step) -> Tensor:
        """The penalty; its gradient moves W_dec only."""
        weight = value_at(self.settings.weight, step.fraction_done)
        self._n_steps += 1
        if weight == 0 or self._n_steps % self.settings.every_steps:
            return step.target_BM.new_zeros(())
        W_dec = step.sae.W_dec
        # Rows need not have norm 1 here: the term compares directions, and `decoder: free` is allowed.
        norm_E = W_dec.norm(dim=1, keepdim=True).clamp(min=torch.finfo(W_dec.dtype).tiny)
        unit_EM = W_dec / norm_E
        largest_E, nearest_E = W_dec.new_empty(step.sae.d_sae), torch.empty(step.sae.d_sae, dtype=torch.int64)
        nearest_E = nearest_E.to(W_dec.device)
        for chunk in chunks(step.sae.d_sae, self.settings.chunk_size, self.settings.seed, self._n_steps):
            places = chunk.to(W_dec.device)
            largest_E[places], nearest = nearest_of(unit_EM[places])
            nearest_E[places] = places[nearest]
        pull_E = largest_E * (2 * weight / step.sae.d_sae)
        one_each = torch.arange(step.sae.d_sae + 1, device=W_dec.device)
        pull = SparseCodes(pull_E, nearest_E, one_each, step.sae.d_sae)
        gradient_EM = pull.decode(unit_EM) + pull.transposed_times(unit_EM)
        along_E = torch.linalg.vecdot(gradient_EM, unit_EM)
        step.add_gradient("W_dec", gradient_EM.addcmul_(unit_EM, along_E[:, None], value=-1.0).div_(norm_E))
        step.monitors["ort_sae/mean_max_cos"] = largest_E.mean()
        return weight * largest_E.square().mean()

    def state(self) -> dict[str, Tensor]:
        """The number of steps, from which the next chunks follow."""
        return {"steps": torch.tensor(self._n_steps)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved state."""
        self._n_steps = int(state.get("steps", 0))


def chunks(n_latents: int, chunk_size: int, seed: int, step: int) -> list[Tensor]:
    """The latents, shuffled and cut into as few chunks as chunk_size allows; a function of its arguments alone."""
    # A hash, not seed + step: neighbouring seeds would share most of their chunks, one step later.
    digest = hashlib.sha256(f"ort_sae {seed} {step}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
    order = torch.randperm(n_latents, generator=generator)
    return list(order.tensor_split(-(-n_latents // chunk_size)))


def nearest_of(unit_EM: Tensor) -> tuple[Tensor, Tensor]:
    """For every row, the largest inner product with another row, and that row; in tiles, never all pairs at once."""
    largest, nearest = [], []
    for start in range(0, unit_EM.shape[0], TILE_ROWS):
        cosine_RE = unit_EM[start : start + TILE_ROWS] @ unit_EM.T
        cosine_RE.diagonal(start).fill_(-torch.inf)
        best = cosine_RE.max(dim=1)
        largest.append(best.values)
        nearest.append(best.indices)
    return torch.cat(largest), torch.cat(nearest)
