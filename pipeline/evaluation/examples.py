"""What a few latents respond to: the rows on which each is most active, with the text around them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.evaluation.characters import LONGEST_CHARACTER, shown
from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.saes.base import SAE
from strata_sae.pipeline.tensors import side_by_side
from strata_sae.stores import ActivationStore, Filters
from strata_sae.stores.serving.multi_site import Sites

CHOICE = (
    "Latents at evenly spaced ranks of density, densest first, among those that fired on at least {n} scored rows; "
    "of each, the rows of the largest activation, earlier rows first where equal."
)


def choose_latents(fired_E: Tensor, n_latents: int, min_rows: int) -> list[int]:
    """Latents spread evenly over the ranks of density, densest first, among those that fired on `min_rows` rows.

    Shapes: fired_E [E], rows on which each latent fired (count). Equal densities rank by number.
    """
    ranked = fired_E.sort(descending=True, stable=True)
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


def context(sites: Sites, sae: SAE, filters: Filters, latent: int, row: int, n_around: int) -> dict[str, Any]:
    """A row's token and those around it in its document and in the store, with the latent's value on each.

    `sites`: those that the SAE reads, each with its store.
    Values are null on tokens that the filters leave out for what they are (BOS, special, template).
    """
    store = sites[0][0]
    start, stop = _text_around(store, row, n_around)
    x_BM = side_by_side([of_site.rows(site, start, stop) for of_site, site in sites], None, sae.W_dec.device)
    values = sae.encode_inference(x_BM).to_dense()[:, latent].tolist()
    left_out = (store.token_map("flags", start, stop) & filters.flag_mask()).tolist()
    return {
        "row": row,
        "document": int(store.token_map("document", row, row + 1)[0]),
        "position": int(store.token_map("position", row, row + 1)[0]),
        "index": row - start,
        "tokens": _texts(store, row, (start, stop)),
        "values": [None if flags else value for flags, value in zip(left_out, values, strict=True)],
    }


def _texts(store: ActivationStore, row: int, rows: tuple[int, int]) -> list[str]:
    """The texts of `rows` of a stretch of a document, read with a few tokens more for the characters at its edges."""
    start, stop = rows
    n_more = LONGEST_CHARACTER - 1
    first, last = _text_around(store, row, max(row - start, stop - 1 - row) + n_more)
    first, last = max(first, start - n_more), min(last, stop + n_more)
    tokens = [store.tokens[token_id] for token_id in store.token_map("token_id", first, last).tolist()]
    return shown(tokens, start - first, stop - first)


def _text_around(store: ActivationStore, row: int, n_around: int) -> tuple[int, int]:
    """Rows [start, stop) around a row that are one stretch of its document; in a shuffled store, mostly it alone."""
    start, stop = max(0, row - n_around), min(store.plan.n_rows, row + n_around + 1)
    document_N = store.token_map("document", start, stop)
    offset_N = store.token_map("position", start, stop) - np.arange(start, stop)
    other_N = (document_N != document_N[row - start]) | (offset_N != offset_N[row - start])
    before, after = np.flatnonzero(other_N[: row - start]), np.flatnonzero(other_N[row - start :])
    return start + (int(before[-1]) + 1 if len(before) else 0), row + int(after[0]) if len(after) else stop
