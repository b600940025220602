"""Loops over the codes of many rows: from one order to the other, and what is known of each latent."""

import numpy as np

from strata_sae.pipeline.kernels.machine.compiled.loops import _compile


@_compile()
def transposed(
    row_offset: np.ndarray, row_latent: np.ndarray, row_value: np.ndarray, d_sae: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The codes by latent: offsets int64 [E + 1], rows uint32 [P], rising in each latent, values float32 [P]."""
    latent_offset = np.zeros(d_sae + 1, np.int64)
    for latent in row_latent:
        latent_offset[latent + 1] += 1
    for latent in range(d_sae):
        latent_offset[latent + 1] += latent_offset[latent]
    at = latent_offset[:-1].copy()
    latent_row = np.empty(len(row_latent), np.uint32)
    latent_value = np.empty(len(row_latent), np.float32)
    for row in range(len(row_offset) - 1):
        for place in range(row_offset[row], row_offset[row + 1]):
            latent = row_latent[place]
            latent_row[at[latent]] = row
            latent_value[at[latent]] = row_value[place]
            at[latent] += 1
    return latent_offset, latent_row, latent_value
