"""Stores of version 1, as the program that wrote that version made them (tests/stores/data/version_1.tar.xz).

300 rows of two sites 8 wide, 64 rows or fewer a unit, in four formats. The rows lie beside them: they are made by a
matrix product (`small_store.stored_rows`), whose last bits another processor may round otherwise.
"""

import tarfile
from pathlib import Path

import numpy as np

STORES = ["bfloat16-none", "bfloat16-planes", "float32-zstd", "int8-none"]
N_ROWS = 300
SITES = {"blocks.1.hook_mlp_out": 8, "blocks.10.hook_mlp_out": 8}
_DATA = Path(__file__).parent.parent / "stores" / "data"


def unpack(folder: Path) -> Path:
    """Put the stores into a folder, by their names in `STORES`."""
    with tarfile.open(_DATA / "version_1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def rows_written(site: str, encoding: str) -> np.ndarray:
    """The rows that the program of that time was given: float32, or bfloat16's bits."""
    with np.load(_DATA / "version_1_rows.npz") as rows:
        rows_NM: np.ndarray = rows[site]
    return (rows_NM.view(np.uint32) >> 16).astype(np.uint16) if encoding == "bfloat16" else rows_NM
