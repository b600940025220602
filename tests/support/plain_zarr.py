"""A site's rows read with zarr and numpy alone, as docs/store.md tells another language to."""

from typing import Any

import numpy as np


def plain_rows(group: Any, site: str) -> np.ndarray:
    """Rows [N, M] of a site: float32, or float16 where that is stored."""
    arrays = group[f"sites/{site}"]
    planes = "high" in arrays
    bits = arrays["high"][:].astype(np.uint16) << 8 | arrays["low"][:] if planes else arrays["values"][:]
    if "scale" in arrays:
        return (
            bits.astype(np.float32) * arrays["scale"][:][:, None] * arrays["column_scale"][:]
            + arrays["column_offset"][:]
        )
    return (bits.astype(np.uint32) << 16).view(np.float32) if bits.dtype == np.uint16 else bits
