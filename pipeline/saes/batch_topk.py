"""BatchTopK: the k * B largest pre-activations of the batch are on; a threshold takes over at inference."""

from typing import ClassVar, Literal

from torch import Tensor

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.kernels.selection import above, batch_topk
from strata_sae.pipeline.kernels.tiles import Tiles, batch_topk_of_tiles
from strata_sae.pipeline.saes.base import k_at
from strata_sae.pipeline.saes.ranked import Ranked, RankedSettings
from strata_sae.pipeline.schedules import Schedule


class BatchTopK(Ranked):
    """Source: Bussmann et al. 2024, BatchTopK Sparse Autoencoders."""

    class Settings(RankedSettings):
        """Knobs of the BatchTopK SAE."""

        architecture: Literal["batch_topk"] = "batch_topk"
        """Name in ARCHITECTURES."""
        k: int | Schedule
        """Latents on per row, on average over a batch (count)."""

    settings: Settings
    has_threshold: ClassVar[bool] = True
    _previous_cut: float = 0.0  # speeds up the next selection and cannot change it, so checkpoints leave it out

    def select(self, pre_BE: Tensor, fraction_done: float) -> Codes:
        """The k * B largest of the batch."""
        n_pairs = k_at(self.settings.k, fraction_done) * pre_BE.shape[0]
        guess = 0.9 * self._previous_cut
        codes, self._previous_cut = batch_topk(pre_BE, n_pairs, self.break_even_density, guess)
        return codes

    def select_from_tiles(self, tiles: Tiles, fraction_done: float) -> Codes | None:
        """The k * B largest of the batch."""
        n_pairs = k_at(self.settings.k, fraction_done) * tiles.shape[0]
        return batch_topk_of_tiles(tiles, n_pairs, self.break_even_density)

    def select_inference(self, pre_BE: Tensor) -> Codes:
        """Every pre-activation above the threshold.

        Raises: CheckpointError while the threshold is unset.
        """
        if self.threshold is None:
            raise CheckpointError(
                "this batch_topk SAE has no threshold yet, so inference would depend on the batch; "
                "finish its training, which sets the threshold"
            )
        return above(pre_BE, max(float(self.threshold), 0.0), self.break_even_density)
