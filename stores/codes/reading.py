"""A codes store, opened: the rows of a latent, the latents of a row."""

import json
from functools import cached_property
from pathlib import Path

import numpy as np
import zarr

from strata_sae.stores.codes.plan import CodesPlan
from strata_sae.stores.codes.writing import SegmentCodes
from strata_sae.stores.errors import StoreError


class CodesStore:
    """The codes of one SAE on every row. Segments are opened when they are first asked for."""

    def __init__(self, folder: Path, plan: CodesPlan) -> None:
        self.path, self.plan = folder, plan
        self._segments: dict[int, SegmentCodes] = {}

    @classmethod
    def open(cls, folder: Path | str, wanted: CodesPlan | None = None) -> "CodesStore":
        """A finished codes store. wanted: what it must be of. Raises: StoreError if it is not, or is damaged."""
        folder = Path(folder)
        if not (folder / "MANIFEST.json").exists():
            raise StoreError(f"{folder}: no finished codes store; make it with strata codes")
        found = json.loads((folder / "codes.json").read_bytes())
        plan = CodesPlan(**{key: found[key] for key in CodesPlan.__dataclass_fields__})
        if wanted is not None and plan != wanted:
            raise StoreError(f"{folder}: holds codes of another store or other weights; delete it")
        return cls(folder, plan)

    @cached_property
    def table(self) -> dict[str, np.ndarray]:
        """What is known of each latent, by name; the first axis is [d_sae]."""
        with np.load(self.path / "latents.npz") as found:
            return dict(found)

    @property
    def n_pairs(self) -> int:
        """Pairs of a row and a latent that is active there (count)."""
        return sum(len(self.segment(i).row_latent) for i in range(self.plan.n_segments))

    def segment(self, segment: int) -> SegmentCodes:
        """All codes of one segment; rows count from its first."""
        if segment not in self._segments:
            group = zarr.open_group(str(self.path / f"segments/{segment:04d}.zarr"), mode="r")
            arrays = {name: group[name.replace("_", "/")][:] for name in SegmentCodes._fields}
            self._segments[segment] = SegmentCodes(**arrays)
        return self._segments[segment]

    def rows_of(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows on which a latent is active, rising, int64 [n], and its values there, float32 [n]."""
        rows, values = [], []
        for i in range(self.plan.n_segments):
            codes, first = self.segment(i), self.plan.segment_rows(i)[0]
            some = slice(int(codes.latent_offset[latent]), int(codes.latent_offset[latent + 1]))
            rows.append(codes.latent_row[some].astype(np.int64) + first)
            values.append(codes.latent_value[some])
        return np.concatenate(rows), np.concatenate(values)

    def latents_of(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """The active latents of rows [start, stop): int64 offsets [stop - start + 1], uint32 latents, rising in a row.

        Raises: StoreError beyond the rows.
        """
        if not 0 <= start <= stop <= self.plan.n_rows:
            raise StoreError(f"rows {start}..{stop} leave 0..{self.plan.n_rows}")
        counts, latents = [np.zeros(1, np.int64)], [np.empty(0, np.uint32)]
        for i in range(self.plan.n_segments):
            first, last = self.plan.segment_rows(i)
            a, b = max(start, first) - first, min(stop, last) - first
            if a < b:
                codes = self.segment(i)
                counts.append(np.diff(codes.row_offset[a : b + 1]))
                latents.append(codes.row_latent[codes.row_offset[a] : codes.row_offset[b]])
        return np.cumsum(np.concatenate(counts)), np.concatenate(latents)

    def values(self, latent: int, rows: np.ndarray) -> np.ndarray:
        """A latent's values on rows (int64, any order), float32; 0 where it is silent."""
        active, values = self.rows_of(latent)
        if not len(active):
            return np.zeros(len(rows), np.float32)
        at = np.searchsorted(active, rows).clip(max=len(active) - 1)
        return np.where(active[at] == rows, values[at], np.float32(0)).astype(np.float32)
