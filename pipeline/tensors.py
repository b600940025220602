"""Stored rows as float32 tensors, and where they go."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.errors import ConfigError


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


def choose_device(name: str, key: str) -> torch.device:
    """The device that the config's `key` names; `auto` is cuda where there is one, else cpu.

    Raises: ConfigError if this machine has no such device.
    """
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if n_cuda else "cpu")
    here = ["auto", "cpu", *(["cuda"] if n_cuda else []), *(f"cuda:{number}" for number in range(n_cuda))]
    if name not in here:
        raise ConfigError(f"{key}: {name!r} is not allowed here; allowed: {', '.join(here)}")
    return torch.device(name)
