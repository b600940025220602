"""Stored rows as float32 tensors in raw units."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from stores import ActivationStore, Filters


def to_tensor(rows: np.ndarray, device: torch.device) -> Tensor:
    """Rows as the store keeps them (float32, float16, or the uint16 bits of bfloat16) as float32 [B, M] on a device."""
    if not rows.flags.writeable:
        rows = rows.copy()  # a view of the mapped file, which torch refuses to share
    if rows.dtype == np.uint16:
        return torch.from_numpy(rows.view(np.int16)).to(device).view(torch.bfloat16).float()
    return torch.from_numpy(rows).to(device).float()


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


def count_documents(store: ActivationStore, start: int, stop: int, piece_rows: int = 2**20) -> int:
    """Documents with a token in rows [start, stop) (count); a document's rows lie together."""
    n_documents, previous = 0, None
    for first in range(start, stop, piece_rows):
        document_N = store.token_map("document", first, min(first + piece_rows, stop))
        n_documents += int((np.diff(document_N) != 0).sum()) + (previous is None or document_N[0] != previous)
        previous = document_N[-1]
    return n_documents
