"""TopK: the k largest pre-activations of each row are on."""

from typing import Literal

from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.kernels.selection import row_topk
from strata_sae.pipeline.kernels.tiles import Tiles, row_topk_of_tiles
from strata_sae.pipeline.saes.base import k_at
from strata_sae.pipeline.saes.ranked import Ranked, RankedSettings


class TopK(Ranked):
    """Source: Gao et al. 2024, Scaling and evaluating sparse autoencoders."""

    class Settings(RankedSettings):
        """Knobs of the TopK SAE."""

        architecture: Literal["topk"] = "topk"
        """Name in ARCHITECTURES."""

    settings: Settings

    def select(self, pre_BE: Tensor, fraction_done: float) -> Codes:
        """The k largest of each row."""
        return row_topk(pre_BE, k_at(self.settings.k, fraction_done), self.break_even_density)

    def select_from_tiles(self, tiles: Tiles, fraction_done: float) -> Codes | None:
        """The k largest of each row."""
        return row_topk_of_tiles(tiles, k_at(self.settings.k, fraction_done), self.break_even_density)

    def select_inference(self, pre_BE: Tensor) -> Codes:
        """The final k largest of each row."""
        return row_topk(pre_BE, k_at(self.settings.k, 1.0), self.break_even_density)
