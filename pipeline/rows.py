"""Stored rows as float32 tensors, and where they go."""

import numpy as np
import torch
from torch import Tensor


def to_tensor(rows: np.ndarray, device: torch.device) -> Tensor:
    """Rows as the store keeps them (float32, float16, or the uint16 bits of bfloat16) as float32 [B, M] on a device."""
    own = np.array(rows)  # the store's rows are read-only and last until its next batch
    if own.dtype == np.uint16:
        return torch.from_numpy(own.view(np.int16)).to(device).view(torch.bfloat16).float()
    return torch.from_numpy(own).to(device).float()


def choose_device(name: str) -> torch.device:
    """The device a config names; `auto` is cuda where there is one, else cpu."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
