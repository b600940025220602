"""The rows on which a few chosen latents are most active."""

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes

CHOICE = (
    "Latents at evenly spaced ranks of density, densest first, among those active on at least {n} scored rows; "
    "of each, the rows of the largest activation, earlier rows first where equal."
)


def choose_latents(active_rows_E: Tensor, n_latents: int, min_rows: int) -> list[int]:
    """Latents spread evenly over the ranks of density, densest first, among those active on `min_rows` rows.

    Shapes: active_rows_E [E], rows on which each latent is active (count). Equal densities rank by number.
    """
    ranked = active_rows_E.sort(descending=True, stable=True)
    candidates = ranked.indices[ranked.values >= max(1, min_rows)].tolist()
    if len(candidates) <= n_latents:
        return candidates
    return [candidates[int((place + 0.5) * len(candidates) / n_latents)] for place in range(n_latents)]


class TopRows:
    """The n rows of the largest value for each of C chosen latents, as a stream passes by."""

    def __init__(self, latents: list[int], n_rows: int, d_sae: int, device: torch.device) -> None:
        self.latents, self.n_rows = latents, n_rows
        # Decoding with a one-hot table picks the chosen latents' values out of codes of any layout.
        self.pick = torch.zeros(d_sae, len(latents), device=device)  # [E, C]
        self.pick[latents, list(range(len(latents)))] = 1.0
        self.values = torch.zeros(0, len(latents), device=device)  # [n, C]
        self.numbers = torch.zeros(0, len(latents), dtype=torch.int64, device=device)  # [n, C]

    def update(self, codes: Codes, row_numbers_B: Tensor) -> None:
        """Take one batch in."""
        values = torch.cat([self.values, codes.decode(self.pick)])
        numbers = torch.cat([self.numbers, row_numbers_B[:, None].expand(-1, len(self.latents))])
        order = values.sort(dim=0, descending=True, stable=True).indices[: self.n_rows]
        self.values, self.numbers = values.gather(0, order), numbers.gather(0, order)

    def found(self) -> dict[int, list[tuple[int, float]]]:
        """For each latent its rows as (row number, value), largest first; rows where it is 0 are no examples."""
        columns = zip(self.latents, self.numbers.T.tolist(), self.values.T.tolist(), strict=True)
        return {
            latent: [(number, value) for number, value in zip(numbers, values, strict=True) if value > 0.0]
            for latent, numbers, values in columns
        }
