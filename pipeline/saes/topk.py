"""SAEs that fill a k by rank: TopK in each row, BatchTopK over the batch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import model_validator
from torch import Tensor, finfo, linalg

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.kernels.selection import above, batch_topk, row_topk
from strata_sae.pipeline.kernels.tiles import Tiles, batch_topk_of_tiles
from strata_sae.pipeline.saes.base import SAE, Encoding, Inference, SAESettings, Workspace
from strata_sae.pipeline.schedules import Schedule, value_at
from strata_sae.pipeline.sharding import cut


class RankedSettings(SAESettings):
    """Settings of the SAEs that fill a k by rank."""

    k: int | Schedule
    """Active latents per row (count)."""
    inference: Inference = "k"
    """How the trained SAE selects: the final k largest of each row, or every value above the threshold that training
    sets (dictionary_learning's default). Evaluation scores both."""
    rank_by: Literal["pre_activation", "contribution"] = "pre_activation"
    """`contribution`: pre-activation times the norm of its decoder row (SAELens' rescale_acts_by_decoder_norm); the
    final weights then have rows of norm 1, whose codes are those contributions. Needs decoder: free."""

    @model_validator(mode="after")
    def _k_fits(self) -> "RankedSettings":
        check_k(self.k, self.d_sae)
        return self

    @model_validator(mode="after")
    def _norms_differ(self) -> "RankedSettings":
        if self.rank_by == "contribution" and self.decoder != "free":
            raise ValueError(f"rank_by: contribution needs decoder: free; decoder {self.decoder!r} makes every norm 1")
        return self


@dataclass(frozen=True)
class RankedEncoding(Encoding):
    """A batch encoded by rank."""

    ranked: Codes
    """The same entries with what they were ranked by."""

    @property
    def cut(self) -> Codes:
        """The entries with what they were ranked by."""
        return self.ranked


class Ranked(SAE):
    """A latent is active where its pre-activation a, or a * |W_dec[latent]|, ranks high enough; its value is a."""

    settings: RankedSettings
    has_runners_up: ClassVar[bool] = True

    def encode(self, x_BM: Tensor, *, fraction_done: float = 1.0, workspace: Workspace | None = None) -> Encoding:
        """The codes as training selects them at `fraction_done` (share of the run done, 0 to 1)."""
        if self.settings.rank_by == "pre_activation":
            return super().encode(x_BM, fraction_done=fraction_done, workspace=workspace)
        x0_BM, pre_BE = self._product(x_BM, workspace)
        ranked = self.select(pre_BE * self._norms(), fraction_done)
        return RankedEncoding(self._unranked(ranked), pre_BE, x0_BM, ranked)

    def encode_inference(self, x_BM: Tensor, *, workspace: Workspace | None = None) -> Codes:
        """The codes of a trained SAE: a row's codes do not depend on the other rows."""
        if self.settings.rank_by == "pre_activation":
            return super().encode_inference(x_BM, workspace=workspace)
        return self._unranked(self.select_inference(self._product(x_BM, workspace)[1].mul_(self._norms())))

    def inferences(self) -> list[Inference]:
        """That of the settings, then the other one; by a threshold only once there is one."""
        ways: tuple[Inference, ...] = ("k",) if self.threshold is None else ("k", "threshold")
        return list(dict.fromkeys([self.settings.inference, *ways]))

    def encode_as(
        self, x_BM: Tensor, inferences: Sequence[Inference], *, workspace: Workspace | None = None
    ) -> list[Codes]:
        """The codes of a trained SAE, by k or by its threshold. Raises: CheckpointError if it has none."""
        out = None if workspace is None else workspace.buffer(x_BM.shape[0], self.d_sae, like=x_BM)
        ranked_BE = self.pre_activations(x_BM, out)
        found = [self._select_as(ranked_BE, inference) for inference in inferences]
        return found if self.settings.rank_by == "pre_activation" else [self._unranked(codes) for codes in found]

    def select_inference(self, pre_BE: Tensor) -> Codes:
        """The final k largest of each row, or every value above the threshold, as the settings say.

        Raises: CheckpointError while the threshold is unset.
        """
        return self._select_as(pre_BE, self.settings.inference)

    def _select_as(self, pre_BE: Tensor, inference: Inference) -> Codes:
        if inference == "k":
            return row_topk(pre_BE, k_at(self.settings.k, 1.0), self.break_even_density)
        if self.threshold is None:
            raise CheckpointError(
                f"this {self.settings.architecture} SAE has no threshold yet, and inference: threshold selects by it; "
                "finish its training, which sets the threshold"
            )
        return above(pre_BE, max(float(self.threshold), 0.0), self.break_even_density)

    def pre_activations(self, x_BM: Tensor, out: Tensor | None = None) -> Tensor:
        """The encoder product, as it is ranked. Returns: [B, E], in `out` if given."""
        pre_BE = super().pre_activations(x_BM, out)
        return pre_BE if self.settings.rank_by == "pre_activation" else pre_BE.mul_(self._norms())

    def weights(self) -> dict[str, Tensor]:
        """The parameters; ranked by contribution, with the norms of the decoder rows moved into the encoder."""
        if self.settings.rank_by == "pre_activation":
            return self.parameters()
        norm_E = self._norms()
        folded = {
            "W_enc": self.W_enc * norm_E[:, None],
            "b_enc": self.b_enc * norm_E,
            "W_dec": self.W_dec / norm_E[:, None],
        }
        return {**self.parameters(), **folded}

    def target_l0(self, fraction_done: float) -> float:
        """The k of `fraction_done`."""
        return float(k_at(self.settings.k, fraction_done))

    def _norms(self) -> Tensor:
        # tiny: a decoder row of zeros makes a contribution of 0, and unranked values that are finite.
        return linalg.vector_norm(self.W_dec, dim=1).clamp(min=finfo(self.W_dec.dtype).tiny)

    def _unranked(self, ranked: Codes) -> Codes:
        return ranked.with_values(ranked.values / ranked.spread_latents(self._norms()))


class TopK(Ranked):
    """Source: Gao et al. 2024, Scaling and evaluating sparse autoencoders."""

    class Settings(RankedSettings):
        """Settings of the TopK SAE."""

        architecture: Literal["topk"] = "topk"
        """The kind of SAE, which decides what other keys there are."""

    settings: Settings

    def select(self, pre_BE: Tensor, fraction_done: float) -> Codes:
        """The k largest of each row."""
        k = k_at(self.settings.k, fraction_done)
        return cut.row_topk(self.ranks, pre_BE, k, self.settings.d_sae, self.break_even_density)

    def select_from_tiles(self, tiles: Tiles, fraction_done: float) -> Codes | None:
        """The k largest of each row."""
        k = k_at(self.settings.k, fraction_done)
        return cut.row_topk_of_tiles(self.ranks, tiles, k, self.settings.d_sae, self.break_even_density)


class BatchTopK(Ranked):
    """Source: Bussmann et al. 2024, BatchTopK Sparse Autoencoders."""

    class Settings(RankedSettings):
        """Settings of the BatchTopK SAE."""

        architecture: Literal["batch_topk"] = "batch_topk"
        """The kind of SAE, which decides what other keys there are."""
        k: int | Schedule
        """Active latents per row, on average over a batch (count)."""
        inference: Inference = "threshold"
        """How the trained SAE selects: every value above the threshold that training sets, so that k is a mean over
        rows, as in training; or the final k largest of each row. Evaluation scores both."""
        tie_break: Literal["first", "random"] = "first"
        """Which of several equal values at the cut of a training batch are active: the first in row order, or a random
        choice that seed and step name (seed 000). k x B are active either way."""

    settings: Settings
    has_threshold: ClassVar[bool] = True
    _previous_cut: float = 0.0  # makes the next selection faster and cannot change it, so checkpoints leave it out

    def select(self, pre_BE: Tensor, fraction_done: float) -> Codes:
        """The k * B largest of the batch."""
        n_entries = k_at(self.settings.k, fraction_done) * pre_BE.shape[0]
        guess = 0.9 * self._previous_cut  # the cut moves little from batch to batch; too high a guess costs a pass
        if self.ranks.n > 1:
            codes, self._previous_cut = cut.batch_topk(
                self.ranks, pre_BE, n_entries, self.settings.d_sae, self.break_even_density, guess
            )
            return codes
        draw = self._draw(fraction_done)
        codes, self._previous_cut = batch_topk(pre_BE, n_entries, self.break_even_density, guess, draw)
        return codes

    def select_from_tiles(self, tiles: Tiles, fraction_done: float) -> Codes | None:
        """The k * B largest of the batch; of a part of the latents, the whole product of that part is needed."""
        if self.ranks.n > 1:
            return None
        n_entries = k_at(self.settings.k, fraction_done) * tiles.shape[0]
        return batch_topk_of_tiles(tiles, n_entries, self.break_even_density, self._draw(fraction_done))

    def _draw(self, fraction_done: float) -> int | None:
        """Names the random choice among equal values. None: the first stay.

        Another one for every seed and step, but one for all steps of an extension, whose fraction_done is 1.
        """
        if self.settings.tie_break == "first":
            return None
        digest = hashlib.sha256(f"ties {self.seed} {float(fraction_done).hex()}".encode()).digest()
        return int.from_bytes(digest[:8], "little")


def check_k(k: int | Schedule, d_sae: int, limit: str = "d_sae") -> None:
    """Raises: ValueError if k is not within 1..d_sae (named `limit`) everywhere between fraction_done 0 and 1."""
    smallest, largest = sorted(k_at(k, fraction_done) for fraction_done in (0.0, 1.0))
    if largest > d_sae:
        raise ValueError(f"k ({largest}) must not exceed {limit} ({d_sae}); lower k or raise d_sae")
    if smallest < 1:
        raise ValueError(f"k ({smallest}) must be at least 1")


def k_at(k: int | Schedule, fraction_done: float) -> int:
    """Active latents per row at `fraction_done`, rounded to the nearest integer."""
    return round(value_at(k, fraction_done))
