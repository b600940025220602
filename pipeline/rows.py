"""Stored rows as float32 tensors, and where they go."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def to_tensor(rows: np.ndarray, device: torch.device) -> Tensor:
    """Rows as the store keeps them (float32, float16, or the uint16 bits of bfloat16) as float32 [B, M] on a device."""
    own = np.array(rows)  # the store's rows are read-only and last until its next batch
    if own.dtype == np.uint16:
        return torch.from_numpy(own.view(np.int16)).to(device).view(torch.bfloat16).float()
    return torch.from_numpy(own).to(device).float()


def side_by_side(parts: Sequence[np.ndarray], factors: Sequence[float] | None, device: torch.device) -> Tensor:
    """Rows of several sites as one, each site's times its factor: float32 [B, sum of M]."""
    rows = [to_tensor(part, device) for part in parts]
    if factors is not None:
        rows = [part_BM * factor for part_BM, factor in zip(rows, factors, strict=True)]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)


def choose_device(name: str) -> torch.device:
    """The device a config names; `auto` is cuda where there is one, else cpu."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
