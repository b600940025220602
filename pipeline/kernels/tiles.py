"""The encoder's product a tile at a time: selection reads a tile while it is still in the processor's cache."""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.bfloat16_topk import Bfloat16Encoder
from strata_sae.pipeline.kernels.codes import Codes, SparseCodes, offsets_of
from strata_sae.pipeline.kernels.machine import reference
from strata_sae.pipeline.kernels.machine.backend import backend_of
from strata_sae.pipeline.kernels.selection import is_dense, largest_entries

EncoderName = Literal["float32", "certified_bfloat16"]
"""How TopK's k largest are found: from float32 products, or from bfloat16 ones with a bound on their error, which finds
the same latents."""
GUESS_STRIDE = 17
"""Of the first tile, every 17th value is a sample from which the cut is guessed (count)."""
# Odd: with an even stride and an even number of latents, half of the latents would never be in the sample.
GUESS_MARGIN = 0.9
"""The guess, as a share of the sample's quantile."""
# Too high a guess costs a second product, which is most of a step; too low a one costs a few more candidates.


class Tiles:
    """x0 W^T + b, computed when iterated over; a tile is valid until the next one."""

    def __init__(self, x0_BM: Tensor, W_EM: Tensor, b_E: Tensor, buffer: Tensor, encoder: EncoderName = "float32"):
        self.x0_BM, self.W_EM, self.b_E = x0_BM, W_EM, b_E
        self.encoder = encoder
        self._buffer = buffer  # [rows of a tile, E]; tiles of latents give it another shape

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, latents) of all tiles together (counts)."""
        return self.x0_BM.shape[0], self.W_EM.shape[0]

    def row_topk(self, k: int) -> tuple[Tensor, Tensor]:
        """Values and latents of the k largest of each row. Returns: [B, k] each."""
        # bfloat16 products are faster where the processor has instructions for them; a bound on their error gives the
        # same latents (bfloat16_topk.py).
        if self.encoder == "certified_bfloat16":
            encoder = Bfloat16Encoder(self.W_EM, self.b_E)
            parts = self.x0_BM.split(self._buffer.shape[0])
            found = [encoder.row_topk(part_BM, k, self._product) for part_BM in parts]
            values, latents = (torch.cat(part) for part in zip(*found, strict=True))
            return values, latents
        return backend_of(self.x0_BM).row_topk_of_product(self.x0_BM, self.W_EM, self.b_E, self._buffer, k)

    def __iter__(self) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        """Each tile's first row, first latent, product without the bias [rows, latents], and bias."""
        first_row = 0
        for block_BM in reference.row_blocks(self.x0_BM, self._buffer):
            tiles = reference.latent_tiles(block_BM, self.x0_BM, self.W_EM, self.b_E, self._buffer)
            for first, product, b_E in tiles:
                yield first_row, first, product, b_E
            first_row += block_BM.shape[0]

    def whole(self, out: Tensor) -> Tensor:
        """All of it at once. Returns: [B, E], in `out`."""
        return torch.addmm(self.b_E, self.x0_BM, self.W_EM.T, out=out)

    def of_latents(self, latents: Tensor) -> Tensor:
        """Its columns of some latents. Returns: [B, len(latents)]."""
        # Dead latents are few: their own product is far cheaper than the whole one, which was not kept.
        return torch.addmm(self.b_E[latents], self.x0_BM, self.W_EM[latents].T)

    def _product(self, x0_BM: Tensor) -> Tensor:
        return reference.product(x0_BM, self.W_EM, self.b_E, self._buffer)


def row_topk_of_tiles(tiles: Tiles, k: int, break_even_density: float) -> Codes | None:
    """As `row_topk` of all tiles together; None where the codes would be dense."""
    n_rows, n_latents = tiles.shape
    if is_dense(k, n_latents, break_even_density):
        return None
    values, latents = tiles.row_topk(k)
    offsets = torch.arange(0, n_rows * k + 1, k, device=latents.device)
    return SparseCodes(values.clamp(min=0).view(-1), latents.view(-1), offsets, n_latents)


def batch_topk_of_tiles(
    tiles: Tiles, n_entries: int, break_even_density: float, draw: int | None = None
) -> Codes | None:
    """As `batch_topk` of all tiles together; None where the codes would be dense.

    A guess of the cut comes from the first tile. Each tile's values above it are kept; if they are too few in the end,
    the product is computed again with a lower guess. The guess depends on this batch alone; the result does not depend
    on the guess.
    """
    n_rows, n_latents = tiles.shape
    # Dense codes need the whole product anyway: the caller then computes it at once.
    if is_dense(n_entries, n_rows * n_latents, break_even_density):
        return None
    guess, found = _above(tiles, None, n_entries / (n_rows * n_latents))
    while found[0].numel() < n_entries and guess > 0:
        # Halving ends at 0 at the latest; below eps only rounding is left to find.
        lower = guess / 2 if guess > torch.finfo(tiles.b_E.dtype).eps else 0.0
        guess, found = _above(tiles, lower)
    values_P, rows_P, latents_P = _in_row_order(*found, tiles.shape)
    kept_P, _ = largest_entries(values_P, n_entries, rows_P.long() * n_latents + latents_P, draw)
    offsets = offsets_of(torch.bincount(rows_P[kept_P], minlength=n_rows))
    return SparseCodes(values_P[kept_P], latents_P[kept_P], offsets, n_latents)


def _above(tiles: Tiles, threshold: float | None, share: float = 0.0) -> tuple[float, tuple[Tensor, Tensor, Tensor]]:
    """The threshold (None: a guess that about this share exceeds); values above it, their rows, their latents."""
    found = []
    for first_row, first, product, b_E in tiles:
        threshold = GUESS_MARGIN * _quantile(product, b_E, share) if threshold is None else threshold
        values_P, rows_P, latents_P = backend_of(product).entries_above(product, b_E, threshold)
        found.append((values_P, rows_P + first_row, latents_P + first))
    assert threshold is not None
    values_P, rows_P, latents_P = (torch.cat(parts) for parts in zip(*found, strict=True))
    return threshold, (values_P, rows_P, latents_P)


def _in_row_order(
    values_P: Tensor, rows_P: Tensor, latents_P: Tensor, shape: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Entries by row, and by latent within each."""
    sort = backend_of(values_P).sort_by_index
    by_latent_P, rows_P, _ = sort(latents_P, rows_P, shape[1])
    by_row_P, by_latent_P, _ = sort(rows_P, by_latent_P, shape[0])
    return values_P[by_latent_P], rows_P[by_row_P], latents_P[by_latent_P]


def _quantile(product: Tensor, b_E: Tensor, share: float) -> float:
    """A number that about this share of product + b_E exceeds; 0 where that is negative, infinite or NaN."""
    sample = product.view(-1)[::GUESS_STRIDE]
    latents = torch.arange(0, product.numel(), GUESS_STRIDE, device=b_E.device).remainder_(b_E.numel())
    value = backend_of(product).kth_largest(sample + b_E[latents], max(round(share * sample.numel()), 1))
    return value if 0 < value < math.inf else 0.0
