"""What a group is fed: batch t of its sites, scaled, and side by side where there are several."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.config.training import TrainingSettings, window_rows
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.paths import as_path
from strata_sae.pipeline.tensors import side_by_side
from strata_sae.pipeline.trainer.pending import Pending
from strata_sae.stores.front.aligned import Together
from strata_sae.stores.serving.batches import JoinedBatches
from strata_sae.stores.serving.mixing import BatchMixing, batch_mixing


class Rows(NamedTuple):
    """A batch of scaled rows. `target_BM`: what is to be reconstructed; None: x_BM itself."""

    x_BM: Tensor
    target_BM: Tensor | None
    numbers: np.ndarray

    @property
    def target(self) -> Tensor:
        """What is to be reconstructed."""
        return self.x_BM if self.target_BM is None else self.target_BM


def _shared_windows(training: TrainingSettings) -> Path | None:
    key = "training.shared_windows"
    if training.shared_windows is None:
        return None
    return outside_stores(as_path(training.shared_windows, key), key)


def capped_window(pending: Pending, stores: Together, training: TrainingSettings) -> str | None:
    """A line if `window_bytes` makes the window smaller than `window_rows` asks for, with how it then mixes."""
    group = pending.group
    sites = [(stores.at(site), site) for site in group.route.sites]
    plan = sites[0][0].plan
    start, stop = plan.splits["train"]
    wanted = min(training.window_rows, stop - start)
    row_bytes = sum(store.plan.bytes_per_row(site) for store, site in sites)
    if (n_rows := window_rows(training, row_bytes, group.batch_size)) >= wanted:
        return None
    mixing = batch_mixing(*sites[0], "train", pending.filters, group.batch_size)
    varies = ""
    if mixing is not None:
        ratio = mixing.predicted_variance_ratio(max(1, n_rows // plan.rows_per_chunk))
        varies = f"; the mean of a batch varies {ratio:.2f} times as much as that of as many rows drawn at random"
    return (
        f"{group.site}: a window mixes {n_rows:,} rows, not {wanted:,}, since two of {row_bytes:,} bytes a row fill "
        f"training.window_bytes ({training.window_bytes:,}){varies}; raise it where that is much"
    )


class Feed:
    """The batches of a group; a pure function of the step."""

    def __init__(self, pending: Pending, stores: Together, training: TrainingSettings, device: torch.device) -> None:
        group = pending.group
        self._route, self._scaling, self._device = group.route, pending.scaling, device
        sites = [(stores.at(site), site) for site in group.route.sites]
        row_bytes = sum(store.plan.bytes_per_row(site) for store, site in sites)
        self.batches = JoinedBatches(
            sites,
            split="train",
            filters=pending.filters,
            seed=group.seed,
            batch_size=group.batch_size,
            shared=_shared_windows(training),
            window_rows=window_rows(training, row_bytes, group.batch_size),
        )
        joint_limit = len(sites) > 1 and pending.filters.max_norm_multiple is not None
        self.mixing: BatchMixing | None = None  # what it counts of the corpus are the rows of one site's own mask
        if not joint_limit:
            self.mixing = batch_mixing(*sites[0], "train", pending.filters, group.batch_size)

    def batch(self, step: int) -> Rows:
        """Batch `step`. Raises: StoreError if a chunk is damaged."""
        parts, numbers = self.batches.batch(step)
        return Rows(self._read(parts), self._written(parts), numbers)

    def calibration(self, n_steps: int, n_rows: int) -> Callable[[], Iterable[Tensor]]:
        """The rows that come after training's, read once; call the result for an iterator of scaled batches."""
        n_rows = min(n_rows, self.batches.n_rows)
        kept: list[list[np.ndarray]] = []
        while (missing := n_rows - sum(len(parts[0]) for parts in kept)) > 0:
            parts, _ = self.batches.batch(n_steps + len(kept))
            kept.append([rows[:missing].copy() for rows in parts])

        def scaled() -> Iterator[Tensor]:
            return (self._read(parts) for parts in kept)

        return scaled

    def close(self) -> None:
        """Stop reading."""
        self.batches.close()

    def _read(self, parts: list[np.ndarray]) -> Tensor:
        return self._side_by_side(parts, self._route.reads, self._scaling.reads)

    def _written(self, parts: list[np.ndarray]) -> Tensor | None:
        if self._route.reads == self._route.writes:
            return None
        return self._side_by_side(parts, self._route.writes, self._scaling.writes)

    def _side_by_side(self, parts: list[np.ndarray], sites: Sequence[str], factors: Sequence[float]) -> Tensor:
        places = [self._route.sites.index(site) for site in sites]
        return side_by_side([parts[place] for place in places], factors, self._device)
