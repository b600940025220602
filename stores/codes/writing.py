"""Codes are written segment by segment; the store of them is there when MANIFEST.json is."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zarr

from strata_sae.stores.codes.plan import FORMAT, VERSION, CodesPlan
from strata_sae.stores.files.filesystem import write_bytes


class SegmentCodes(NamedTuple):
    """The codes of one segment in both orders. Rows count from the segment's first; no value is 0.

    R rows, P pairs (row, latent), E latents.
    """

    row_offset: np.ndarray
    """int64 [R + 1]: row r has the pairs row_offset[r] to row_offset[r + 1] - 1."""
    row_latent: np.ndarray
    """uint32 [P], rising in each row."""
    latent_offset: np.ndarray
    """int64 [E + 1]."""
    latent_row: np.ndarray
    """uint32 [P], rising in each latent."""
    latent_value: np.ndarray
    """float32 [P]."""


def create_codes(folder: Path, plan: CodesPlan) -> None:
    """Begin a codes store, or go on with one of the same plan."""
    write_bytes(folder / "codes.json", json.dumps({"format": FORMAT, "version": VERSION, **asdict(plan)}).encode())


def missing_segments(folder: Path, plan: CodesPlan) -> list[int]:
    """Segments that are not there yet."""
    return [i for i in range(plan.n_segments) if not (folder / f"segments/{i:04d}.zarr/zarr.json").exists()]


def write_segment(folder: Path, plan: CodesPlan, segment: int, codes: SegmentCodes) -> None:
    """Write one segment, whole or not at all."""
    group = zarr.open_group(str(folder / f"segments/{segment:04d}.zarr"), mode="w")
    for name, array in codes._asdict().items():
        order, _, kind = name.partition("_")
        group.create_array(f"{order}/{kind}", data=array, chunks=(65536,))


def finish_codes(folder: Path, plan: CodesPlan, table: Mapping[str, np.ndarray]) -> None:
    """Write the table of the latents and MANIFEST.json."""
    np.savez(folder / "latents.npz", **{name: array for name, array in table.items()})
    write_bytes(folder / "MANIFEST.json", b"{}")
