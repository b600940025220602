"""The encoder's product some rows at a time: selection needs no more than a tile of it, and finds it in the cache."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from pipeline.kernels.backends import backend_of
from pipeline.kernels.bfloat16_topk import Bfloat16Encoder
from pipeline.kernels.codes import Codes, SparseCodes, from_places
from pipeline.kernels.row_topk import true_places
from pipeline.kernels.selection import is_dense, largest_pairs

EncoderName = Literal["float32", "certified_bfloat16"]
"""How TopK's k largest are found: from float32 products, or from bfloat16 ones with a bound on their error, which finds
the same latents."""
GUESS_STRIDE = 17
"""Every so many entries of the first tile are looked at to guess where the cut lies; odd, so that all latents are."""
GUESS_MARGIN = 0.9
"""The guess as a share of what they say: too high a guess costs a second product."""


class Tiles:
    """x0 W^T + b, computed when iterated over: some rows at a time, each tile valid until the next."""

    def __init__(self, x0_BM: Tensor, W_EM: Tensor, b_E: Tensor, buffer: Tensor, encoder: EncoderName = "float32"):
        self.x0_BM, self.W_EM, self.b_E = x0_BM, W_EM, b_E
        self.encoder = encoder
        self._buffer = buffer  # [rows of a tile, E]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, latents) of all tiles together (counts)."""
        return self.x0_BM.shape[0], self.W_EM.shape[0]

    def parts(self) -> tuple[Tensor, ...]:
        """The rows of each tile."""
        return self.x0_BM.split(self._buffer.shape[0])

    def product(self, x0_BM: Tensor) -> Tensor:
        """One tile. Returns: [B, E]."""
        return torch.addmm(self.b_E, x0_BM, self.W_EM.T, out=self._buffer[: x0_BM.shape[0]])

    def whole(self, out: Tensor) -> Tensor:
        """All of it at once. Returns: [B, E], in `out`."""
        return torch.addmm(self.b_E, self.x0_BM, self.W_EM.T, out=out)

    def of_latents(self, latents: Tensor) -> Tensor:
        """Its columns of some latents. Returns: [B, len(latents)]."""
        return torch.addmm(self.b_E[latents], self.x0_BM, self.W_EM[latents].T)

    def __iter__(self) -> Iterator[Tensor]:
        return (self.product(part_BM) for part_BM in self.parts())


def row_topk_of_tiles(tiles: Tiles, k: int) -> Codes | None:
    """As `row_topk` of all tiles together; None where the codes would be dense."""
    n_rows, n_latents = tiles.shape
    if is_dense(k, n_latents):
        return None
    if tiles.encoder == "certified_bfloat16":
        encoder = Bfloat16Encoder(tiles.W_EM, tiles.b_E)
        found = [encoder.row_topk(part_BM, k, tiles.product) for part_BM in tiles.parts()]
    else:
        found = [backend_of(pre_BE).row_topk(pre_BE, k) for pre_BE in tiles]
    values, latents = (torch.cat(parts).reshape(-1) for parts in zip(*found, strict=True))
    offsets = torch.arange(0, n_rows * k + 1, k, device=latents.device)
    return SparseCodes(values.clamp(min=0), latents, offsets, n_latents)


def batch_topk_of_tiles(tiles: Tiles, n_pairs: int) -> Codes | None:
    """As `batch_topk` of all tiles together; None where the codes would be dense.

    A guess from the first tile says what is kept of each until the cut is known; if that is too little, the product is
    computed again with a lower one. The guess depends on this batch alone, and the result not on the guess.
    """
    n_rows, n_latents = tiles.shape
    if is_dense(n_pairs, n_rows * n_latents):
        return None
    guess, places_P, values_P = _above(tiles, None, n_pairs / (n_rows * n_latents))
    while values_P.numel() < n_pairs and guess > 0:
        lower = guess / 2 if guess > torch.finfo(values_P.dtype).eps else 0.0
        guess, places_P, values_P = _above(tiles, lower)
    kept_P, _ = largest_pairs(values_P, n_pairs)
    return from_places(places_P[kept_P], values_P[kept_P], n_rows, n_latents)


def _above(tiles: Tiles, threshold: float | None, share: float = 0.0) -> tuple[float, Tensor, Tensor]:
    """The threshold (None: a guess that about this share exceed), rising flat places above it, and their values."""
    places, values, first = [], [], 0
    for pre_BE in tiles:
        threshold = GUESS_MARGIN * _quantile(pre_BE, share) if threshold is None else threshold
        places_P = true_places(pre_BE > threshold)
        places.append(places_P + first)
        values.append(pre_BE.reshape(-1)[places_P])
        first += pre_BE.numel()
    assert threshold is not None
    return threshold, torch.cat(places), torch.cat(values)


def _quantile(pre_BE: Tensor, share: float) -> float:
    """About what this share of the entries exceed; at least 0, and 0 where it is unknown."""
    sample = pre_BE.reshape(-1)[::GUESS_STRIDE]
    value = float(sample.topk(max(round(share * sample.numel()), 1), sorted=False).values.amin())
    return value if value > 0 else 0.0
