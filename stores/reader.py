"""Opening a store and reading rows, token map, statistics and summaries from it."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stores import timings
from stores.canonical import read_canonical
from stores.checking import check_opened
from stores.encodings import to_float32
from stores.errors import StoreError
from stores.filters import Filters
from stores.format import STATISTICS, VOCABULARY
from stores.mapped import MappedArray
from stores.masks import RowMask
from stores.plan import Plan, read_plan
from stores.units import read_commit


class ActivationStore:
    """A finished, immutable store of activations."""

    def __init__(self, path: Path, plan: Plan, store_id: str) -> None:
        self.path, self.plan, self.id = path, plan, store_id
        self._tokens = {field: MappedArray(path, spec) for field, spec in plan.token_specs.items()}
        self._sites = {
            site: {name: MappedArray(path, spec) for name, spec in specs.items()}
            for site, specs in plan.site_specs.items()
        }

    @classmethod
    def open(cls, path: Path | str) -> "ActivationStore":
        """Check the manifest and the size of every file, then map them.

        Raises: StoreError if the store is missing, unfinished or not what its manifest says.
        """
        path = Path(path)
        plan = read_plan(path)
        return cls(path, plan, check_opened(path, plan))

    def values(self, site: str) -> MappedArray:
        """A site's rows [N, M]. Raises: StoreError naming the sites there are."""
        return self._arrays(site)["values"]

    def rows(self, site: str, start: int, stop: int) -> np.ndarray:
        """Rows [n, M] in the stored type: float32, float16, or uint16 holding the bits of bfloat16."""
        return self.values(site).rows(start, stop)

    def norms(self, site: str, start: int, stop: int) -> np.ndarray:
        """Euclidean norms [n] of the stored rows, float32."""
        return self._arrays(site)["norm"].rows(start, stop)

    def token_map(self, field: str, start: int, stop: int) -> np.ndarray:
        """`token_id`, `document`, `position` or `flags` of rows [start, stop)."""
        return self._tokens[field].rows(start, stop)

    @cached_property
    def vocabulary(self) -> dict[int, str]:
        """Text of every token id that occurs."""
        path = self.path / VOCABULARY
        try:
            return {int(token): str(text) for token, text in read_canonical(path).items()}
        except ValueError as error:
            raise StoreError(f"{path}: a token id is not a number ({error})") from None

    def statistics(self, site: str) -> dict[str, Any]:
        """A site's statistics; see `stores.statistics.merge`."""
        self._arrays(site)
        return read_canonical(self.path / STATISTICS / f"{site}.json")

    def mask(self, site: str, split: str, filters: Filters) -> RowMask:
        """The rows of a split that pass the filters."""
        if split not in self.plan.splits:
            raise StoreError(f"split {split!r} is unknown; this store has {', '.join(self.plan.splits)}")
        median = self._median_norm(site) if filters.max_norm_multiple is not None else 0.0
        norms = self._arrays(site)["norm"] if filters.max_norm_multiple is not None else None
        return RowMask(self._tokens["flags"], norms, self.plan, self.plan.splits[split], filters, median)

    def mean_square_norm(self, site: str, split: str, filters: Filters) -> float:
        """E||x||^2 over the rows of a split that pass the filters, in float64 from the stored norms.

        Raises: StoreError if no row passes.
        """
        mask = self.mask(site, split, filters)
        norms = self._arrays(site)["norm"]
        total = 0.0
        for block in mask.blocks.tolist():
            total += float(np.square(norms.chunk(block)[mask.rows_in(block)].astype(np.float64)).sum())
        if mask.n_rows == 0:
            raise StoreError(f"{self.path}: no row of split {split!r} passes the filters {filters.key()}")
        return total / mask.n_rows

    def in_order(
        self, site: str, split: str, filters: Filters, batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of a split in plan order, every row that passes once: (rows [n, M] as stored, row numbers [n])."""
        mask, values = self.mask(site, split, filters), self.values(site)
        rows: list[np.ndarray] = []
        numbers: list[np.ndarray] = []
        held = 0
        for block in mask.blocks.tolist():
            local = mask.rows_in(block)
            rows.append(values.chunk(block)[local])
            numbers.append(local + block * self.plan.rows_per_chunk)
            held += len(local)
            while held >= batch_size:
                all_rows, all_numbers = np.concatenate(rows), np.concatenate(numbers)
                yield all_rows[:batch_size], all_numbers[:batch_size]
                rows, numbers, held = [all_rows[batch_size:]], [all_numbers[batch_size:]], held - batch_size
        if held:
            yield np.concatenate(rows), np.concatenate(numbers)

    def float_rows(self, site: str, start: int, stop: int) -> np.ndarray:
        """Rows [n, M] as float32."""
        return to_float32(self.rows(site, start, stop))

    def summary(self) -> dict[str, Any]:
        """What the store is, as plain data: identity, model, sites, rows, bytes, and how fast it was filled."""
        plan = self.plan
        site_bytes = dict.fromkeys(plan.sites, 0)
        n_files = len(plan.files)
        for unit in range(plan.n_units):
            record = read_commit(self.path, plan, unit)
            entries = record["files"] if record is not None else {}
            n_files += len(entries)
            for site, specs in plan.site_specs.items():
                site_bytes[site] += sum(entries[spec.shard_path(unit)]["bytes"] for spec in specs.values())
        token_bytes = sum(entry["bytes"] for entry in plan.files.values())
        return {
            "store_id": self.id,
            "plan_id": plan.id,
            "model": plan.provenance.get("model", {}),
            "corpus": plan.provenance.get("corpus", {}),
            "config": plan.config,
            "sites": {
                site: {"d_model": m, "bytes_per_token": site_bytes[site] / plan.n_rows}
                for site, m in plan.sites.items()
            },
            "encoding": plan.encoding,
            "compressor": plan.compressor,
            "n_rows": plan.n_rows,
            "n_documents": plan.n_documents,
            "split_rows": {name: stop - start for name, (start, stop) in plan.splits.items()},
            "rows_per_chunk": plan.rows_per_chunk,
            "n_units": plan.n_units,
            "n_data_files": n_files,
            "token_map_bytes": token_bytes,
            "total_bytes": token_bytes + sum(site_bytes.values()),
            "timing": timings.total(self.path),
            "statistics": {site: _scalars(self.statistics(site)) for site in plan.sites},
        }

    def _median_norm(self, site: str) -> float:
        try:
            return float(self.statistics(site)["content"]["norm_quantiles"]["0.5"])
        except (KeyError, TypeError, ValueError):
            raise StoreError(
                f"{self.path}: site {site} has no median norm, because no row is free of flags; unset max_norm_multiple"
            ) from None

    def _arrays(self, site: str) -> dict[str, MappedArray]:
        if site not in self._sites:
            raise StoreError(f"{self.path}: has no site {site!r}; it holds {', '.join(self._sites)}")
        return self._sites[site]


def _scalars(statistics: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {key: value for key, value in group.items() if not isinstance(value, list)}
        for name, group in statistics.items()
        if isinstance(group, dict)
    }
