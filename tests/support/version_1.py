"""Stores of version 1, as the program that wrote that version made them (tests/stores/data/version_1.tar.xz).

300 rows of two sites 8 wide, 64 rows or fewer a unit: `small_store.stored_rows` in four formats.
"""

import tarfile
from pathlib import Path

STORES = ["bfloat16-none", "bfloat16-planes", "float32-zstd", "int8-none"]
N_ROWS = 300
SITES = {"blocks.1.hook_mlp_out": 8, "blocks.10.hook_mlp_out": 8}


def unpack(folder: Path) -> Path:
    """Put the stores into a folder, by their names in `STORES`."""
    with tarfile.open(Path(__file__).parent.parent / "stores" / "data" / "version_1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder
