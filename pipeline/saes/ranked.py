"""What TopK and BatchTopK share: a k, filled by rank; with free decoder rows the rank may count their norms."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import model_validator
from torch import Tensor, finfo, linalg

from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.saes.base import SAE, SAESettings, check_k, k_at, per_pair
from strata_sae.pipeline.saes.encoding import Encoding, Workspace
from strata_sae.pipeline.schedules import Schedule


class RankedSettings(SAESettings):
    """Knobs of the SAEs that fill a k by rank."""

    k: int | Schedule
    """Latents on per row (count)."""
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
    """The same pairs with what they were ranked by."""

    @property
    def cut(self) -> Codes:
        """What they were ranked by."""
        return self.ranked


class Ranked(SAE):
    """A code is the pre-activation a of a latent whose a, or a * |W_dec[latent]|, ranks high enough."""

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
        """The schedule of k at `fraction_done`."""
        return float(k_at(self.settings.k, fraction_done))

    def _norms(self) -> Tensor:
        return linalg.vector_norm(self.W_dec, dim=1).clamp(min=finfo(self.W_dec.dtype).tiny)

    def _unranked(self, ranked: Codes) -> Codes:
        return ranked.with_values(ranked.values / per_pair(ranked, self._norms()))
