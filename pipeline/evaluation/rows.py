"""The rows that scores are taken on."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.rows import to_tensor
from stores import ActivationStore, Filters


def heldout_rows(
    store: ActivationStore, site: str, filters: Filters, batch_size: int, max_rows: int | None, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of held-out rows in plan order, at most `max_rows` of them: x_BM and row numbers [B]."""
    left = max_rows
    for rows, numbers in store.in_order(site, "heldout", filters, batch_size):
        if left is not None:
            rows, numbers = rows[:left], numbers[:left]
            left -= len(rows)
        yield to_tensor(rows, device), torch.from_numpy(numbers).to(device)
        if left == 0:
            return
