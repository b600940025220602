"""The rows that scores are taken on."""

from collections.abc import Iterator

import torch
from torch import Tensor

from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.tensors import side_by_side
from strata_sae.stores import Filters
from strata_sae.stores.front.aligned import Together
from strata_sae.stores.serving.multi_site import Sites, joined_in_order


def sites_of(route: Route, stores: Together) -> Sites:
    """The sites of a route, each with its store."""
    return [(stores.at(site), site) for site in route.sites]


def heldout_rows(
    stores: Together, route: Route, filters: Filters, batch_size: int, max_rows: int | None, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of held-out rows in plan order, at most `max_rows` of them: what is read, what is to be written (the same
    tensor for an SAE) and row numbers [B].
    """
    left = max_rows
    for parts, numbers in joined_in_order(sites_of(route, stores), "heldout", filters, batch_size):
        if left is not None:
            parts, numbers = [rows[:left] for rows in parts], numbers[:left]
            left -= len(numbers)
        of_site = dict(zip(route.sites, parts, strict=True))
        x_BM = side_by_side([of_site[site] for site in route.reads], None, device)
        same = route.reads == route.writes
        target_BM = x_BM if same else side_by_side([of_site[site] for site in route.writes], None, device)
        yield x_BM, target_BM, torch.from_numpy(numbers).to(device)
        if left == 0:
            return
