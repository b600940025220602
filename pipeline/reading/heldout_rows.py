"""The rows of held-out documents, which no SAE was trained on."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.reading.feed import heldout_parts, side_by_side, sites_of
from strata_sae.stores import Filters, Together


class HeldOut(NamedTuple):
    """A batch. Shapes: x_BM [B, d_in], what is read; target_BM [B, d_out], what is to be written; row_numbers_B [B]."""

    x_BM: Tensor
    target_BM: Tensor
    """The same tensor as x_BM for an SAE."""
    row_numbers_B: Tensor


def heldout_rows(
    stores: Together, route: Route, filters: Filters, batch_size: int, max_rows: int | None, device: torch.device
) -> Iterator[HeldOut]:
    """Batches of held-out rows that pass the filters, in plan order, at most `max_rows` rows of them."""
    for parts, numbers in heldout_parts(sites_of(route, stores), filters, batch_size, max_rows):
        of_site = dict(zip(route.sites, parts, strict=True))
        x_BM = side_by_side([of_site[site] for site in route.reads], None, device)
        same = route.reads == route.writes
        target_BM = x_BM if same else side_by_side([of_site[site] for site in route.writes], None, device)
        yield HeldOut(x_BM, target_BM, torch.from_numpy(numbers).to(device))
