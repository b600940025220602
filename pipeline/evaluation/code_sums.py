"""Sums of a batch's codes: by row, and by latent."""

from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes, DenseCodes, SparseCodes

TILE_ROWS = 128
"""Rows of a full matrix of codes that are summed at once (count)."""


class CodeSums(NamedTuple):
    """Of the rows of one batch. [B] float64; [E] int64 but for `signed_E`, which is float64."""

    active_B: Tensor
    """Active latents of each row: those whose code is not 0."""
    absolute_B: Tensor
    """sum |f|."""
    signed_B: Tensor
    """sum f."""
    active_rows_E: Tensor
    """Rows on which each latent is active."""
    positive_rows_E: Tensor
    """Rows on which its code is above 0."""
    signed_E: Tensor
    """The sum of its codes."""


def code_sums(codes: Codes, n_rows: int) -> CodeSums:
    """Sums of the first `n_rows` rows."""
    return _of_entries(codes, n_rows) if isinstance(codes, SparseCodes) else _of_matrix(codes, n_rows)


def _of_entries(codes: SparseCodes, n_rows: int) -> CodeSums:
    if n_rows < codes.batch_size:
        n_entries = int(codes.offsets[n_rows])
        codes = SparseCodes(
            codes.values_P[:n_entries], codes.indices_P[:n_entries], codes.offsets[: n_rows + 1], codes.n_latents
        )
    values_P, ends_B = codes.values_P, codes.offsets.long()

    def by_row(numbers_P: Tensor) -> Tensor:
        sums = torch.nn.functional.pad(numbers_P.double().cumsum(0), (1, 0))
        return sums[ends_B].diff()

    active_P = values_P != 0
    absolute_B, active_rows_E = by_row(values_P.abs()), codes.latent_sums(active_P.float()).long()
    no_negative = not bool((values_P < 0).any())
    return CodeSums(
        active_B=by_row(active_P),
        absolute_B=absolute_B,
        signed_B=absolute_B if no_negative else by_row(values_P),
        active_rows_E=active_rows_E,
        positive_rows_E=active_rows_E if no_negative else codes.latent_sums((values_P > 0).float()).long(),
        signed_E=codes.latent_sums().double(),
    )


def _of_matrix(codes: DenseCodes, n_rows: int) -> CodeSums:
    values_BE = codes.values_BE[:n_rows]
    like_E = values_BE.new_zeros(codes.n_latents, dtype=torch.float64)
    by_row: list[list[Tensor]] = [[], [], []]
    active_E, positive_E, signed_E = like_E, like_E.clone(), like_E.clone()
    for start in range(0, n_rows, TILE_ROWS):
        tile_BE = values_BE[start : start + TILE_ROWS]
        sign_BE = tile_BE.sign()
        n_signed_E, signed_B = sign_BE.sum(dim=0), tile_BE.sum(dim=1, dtype=torch.float64)
        if bool((tile_BE < 0).any()):
            active_BE = sign_BE.abs()
            n_active_E, absolute_B = active_BE.sum(dim=0), tile_BE.abs().sum(dim=1, dtype=torch.float64)
            positive_E += (n_active_E + n_signed_E) / 2
        else:
            active_BE, n_active_E, absolute_B = sign_BE, n_signed_E, signed_B
            positive_E += n_signed_E
        active_E += n_active_E
        signed_E += tile_BE.sum(dim=0)
        for sums, tile_B in zip(by_row, (active_BE.sum(dim=1).double(), absolute_B, signed_B), strict=True):
            sums.append(tile_B)
    active_B, absolute_B, signed_B = (torch.cat(sums) if sums else like_E[:0] for sums in by_row)
    return CodeSums(active_B, absolute_B, signed_B, active_E.long(), positive_E.long(), signed_E)
