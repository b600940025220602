"""The rows that training reads: batch t of a route's sites, scaled, and side by side where there are several."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.config.training import FilterSettings, InputScale, TrainingSettings, window_rows
from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.paths import as_path
from strata_sae.pipeline.reading.document_units import DocumentUnits
from strata_sae.stores import (
    BatchMixing,
    Filters,
    JoinedBatches,
    Sites,
    StreamSettings,
    Together,
    batch_mixing,
    joined_in_order,
    joint_mask,
)

ROWS_IN_ORDER = 4096
"""Rows of a batch in the store's order (count): 38 MB in float32 at width 2304."""


class Scaling(NamedTuple):
    """Factors of the rows of each site, as they are read and as they are written, and of the codes as a consequence."""

    reads: tuple[float, ...]
    writes: tuple[float, ...]
    codes: float
    """Codes of raw rows times this are the codes of scaled rows. For an SAE, the factor of its rows."""


class TrainingRows(NamedTuple):
    """What there is to train on: the rows that pass the filters at all sites of a route."""

    n_rows: int
    scaling: Scaling


class Rows(NamedTuple):
    """A batch of scaled rows, float32, and their row numbers. `target_BM` is what to reconstruct; None: x_BM itself."""

    x_BM: Tensor
    target_BM: Tensor | None
    numbers: np.ndarray

    @property
    def target(self) -> Tensor:
        """What to reconstruct."""
        return self.x_BM if self.target_BM is None else self.target_BM


def to_tensor(rows: np.ndarray, device: torch.device) -> Tensor:
    """Rows as the store keeps them (float32, float16, or the uint16 bits of bfloat16) as float32 [B, M] on a device."""
    copied = np.array(rows)  # the store's rows are read-only, and valid until its next batch only
    if copied.dtype == np.uint16:
        return torch.from_numpy(copied.view(np.int16)).to(device).view(torch.bfloat16).float()
    return torch.from_numpy(copied).to(device).float()


def side_by_side(parts: Sequence[np.ndarray], factors: Sequence[float] | None, device: torch.device) -> Tensor:
    """Rows of several sites as one, each site's times its factor: float32 [B, sum of M]."""
    rows = [to_tensor(part, device) for part in parts]
    if factors is not None:
        rows = [part_BM * factor for part_BM, factor in zip(rows, factors, strict=True)]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)


def sites_of(route: Route, stores: Together) -> Sites:
    """The sites of a route, each with its store."""
    return [(stores.at(site), site) for site in route.sites]


def heldout_parts(
    sites: Sites, filters: Filters, batch_size: int, max_rows: int | None
) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    """Batches of held-out rows that pass the filters, in plan order, at most `max_rows` rows of them.

    Of each: the rows of every site as the store keeps them, and their numbers.
    """
    left = max_rows
    for parts, numbers in joined_in_order(sites, "heldout", filters, batch_size):
        if left is not None:
            parts, numbers = [rows[:left] for rows in parts], numbers[:left]
            left -= len(numbers)
        yield parts, numbers
        if left == 0:
            return


def filters_of(settings: FilterSettings) -> Filters:
    """The stores' filters that the config asks for."""
    return Filters(
        settings.drop_bos, settings.drop_special, settings.drop_template, max_norm_multiple=settings.max_norm_multiple
    )


def training_rows(route: Route, stores: Together, filters: Filters, input_scale: InputScale) -> TrainingRows:
    """Count the training rows of a route and choose their scaling: from their mean squared norms, or none.

    Raises: ConfigError if E||x||^2 is 0 or not finite; StoreError if no row passes.
    """
    mask = joint_mask(sites_of(route, stores), "train", filters)
    mean_squares = {site: stores.at(site).mean_square_norm(site, "train", filters, mask) for site in route.sites}
    for site, mean_square in mean_squares.items():
        if not 0 < mean_square < float("inf"):
            raise ConfigError(f"{site}: E||x||^2 of the training rows is {mean_square}; check training.filters")
    return TrainingRows(mask.n_rows, scaling(route, mean_squares) if input_scale == "statistics" else unscaled(route))


def scaling(route: Route, mean_squares: Mapping[str, float]) -> Scaling:
    """Factors that give E||x_site||^2 = 1 / n_sites for the sites read and for those written (decision 0011).

    mean_squares: E||x||^2 by site. All sites of one side then have the same energy, and E||x||^2 = 1 for their rows
    side by side.
    """

    def factors(sites: Sequence[str]) -> tuple[float, ...]:
        return tuple((len(sites) * mean_squares[site]) ** -0.5 for site in sites)

    total = sum(mean_squares[site] for site in route.writes)
    return Scaling(factors(route.reads), factors(route.writes), total**-0.5)


def unscaled(route: Route) -> Scaling:
    """Factors of rows that training sees as the store holds them."""
    return Scaling((1.0,) * len(route.reads), (1.0,) * len(route.writes), 1.0)


def stream_settings(route: Route, stores: Together, training: TrainingSettings, seed: int) -> StreamSettings:
    """The stream that `training` asks for. Raises: ConfigError if `training.shared_windows` lies inside a store."""
    key = "training.shared_windows"
    folder = training.shared_windows
    return StreamSettings(
        split="train",
        filters=filters_of(training.filters),
        seed=seed,
        batch_size=training.batch_size,
        window_rows=window_rows(training, _bytes_per_row(route, stores), training.batch_size),
        shared=None if folder is None else outside_stores(as_path(folder, key), key),
    )


def capped_window(route: Route, stores: Together, stream: StreamSettings, training: TrainingSettings) -> str | None:
    """A line that says how a stream mixes, if `window_bytes` makes its window smaller than `window_rows` asks for."""
    plan = stores.at(route.sites[0]).plan
    start, stop = plan.splits["train"]
    wanted = min(training.window_rows, stop - start)
    if (n_rows := stream.window_rows) >= wanted:
        return None
    mixing = batch_mixing(*sites_of(route, stores)[0], "train", stream.filters, stream.batch_size)
    varies = ""
    if mixing is not None:
        ratio = mixing.predicted_variance_ratio(max(1, n_rows // plan.rows_per_chunk))
        varies = f"; the mean of a batch varies {ratio:.2f} times as much as the mean of as many rows drawn at random"
    row_bytes = _bytes_per_row(route, stores)
    return (
        f"{route.name}: a window mixes {n_rows:,} rows, not {wanted:,}, since two windows of {row_bytes:,} bytes a row "
        f"fill training.window_bytes ({training.window_bytes:,}){varies}; raise it if that is too much"
    )


class Feed:
    """The scaled batches of a route; a pure function of the step."""

    def __init__(
        self,
        route: Route,
        stores: Together,
        stream: StreamSettings,
        scaling: Scaling,
        device: torch.device,
        documents: DocumentUnits | None = None,
    ) -> None:
        """`documents`: those of the one site that is read, where rows are standardised by document."""
        self._device, self._documents, self._stream = device, documents, stream
        self._sites = sites = sites_of(route, stores)
        places = {site: place for place, site in enumerate(route.sites)}
        self._reads = [(places[site], factor) for site, factor in zip(route.reads, scaling.reads, strict=True)]
        self._writes = [(places[site], factor) for site, factor in zip(route.writes, scaling.writes, strict=True)]
        self._writes_what_it_reads = route.reads == route.writes
        self.batches = JoinedBatches(sites, stream)
        self.mixing: BatchMixing | None = None
        """How batches mix documents; None where that is not known."""
        # A norm limit at several sites leaves out more rows than the mask of one site, which is what mixing counts.
        if len(sites) == 1 or stream.filters.max_norm_multiple is None:
            self.mixing = batch_mixing(*sites[0], stream.split, stream.filters, stream.batch_size)

    def batch(self, step: int) -> Rows:
        """Batch `step`. Raises: StoreError if a chunk is damaged."""
        parts, numbers = self.batches.batch(step)
        return self._rows(parts, numbers)

    def targets_in_order(self) -> Iterator[Tensor]:
        """What is to be reconstructed of all rows to train on, each once, in the store's order: [B, d_out] each."""
        for parts, numbers in joined_in_order(self._sites, self._stream.split, self._stream.filters, ROWS_IN_ORDER):
            yield self._read(parts, numbers) if self._writes_what_it_reads else self._scaled(parts, self._writes)

    def calibration(self, n_steps: int, n_rows: int) -> Callable[[], Iterable[Tensor]]:
        """The `n_rows` rows after the first `n_steps` batches, read once; each call gives their scaled batches anew."""
        n_rows = min(n_rows, self.batches.n_rows)
        kept: list[tuple[list[np.ndarray], np.ndarray]] = []
        while (missing := n_rows - sum(len(numbers) for _, numbers in kept)) > 0:
            parts, numbers = self.batches.batch(n_steps + len(kept))
            kept.append(([rows[:missing].copy() for rows in parts], numbers[:missing].copy()))

        def scaled() -> Iterator[Tensor]:
            return (self._read(parts, numbers) for parts, numbers in kept)

        return scaled

    def heldout(self, batch_size: int, max_rows: int | None) -> Iterator[Rows]:
        """Scaled batches of the held-out rows that pass the filters, in plan order, at most `max_rows` rows of them."""
        for parts, numbers in heldout_parts(self._sites, self._stream.filters, batch_size, max_rows):
            yield self._rows(parts, numbers)

    def close(self) -> None:
        """Stop reading."""
        self.batches.close()

    def _rows(self, parts: list[np.ndarray], numbers: np.ndarray) -> Rows:
        target_BM = None if self._writes_what_it_reads else self._scaled(parts, self._writes)
        return Rows(self._read(parts, numbers), target_BM, numbers)

    def _read(self, parts: list[np.ndarray], numbers: np.ndarray) -> Tensor:
        """What is read of a batch, as training sees it."""
        x_BM = self._scaled(parts, self._reads)
        return x_BM if self._documents is None else self._documents.of(numbers, self._device).apply(x_BM)

    def _scaled(self, parts: list[np.ndarray], side: list[tuple[int, float]]) -> Tensor:
        """Rows of the sites that are read, or of those written: their places among `parts`, and their factors."""
        return side_by_side([parts[place] for place, _ in side], [factor for _, factor in side], self._device)


def _bytes_per_row(route: Route, stores: Together) -> int:
    """Bytes of a row of all sites together, as they are stored."""
    return sum(stores.at(site).plan.bytes_per_row(site) for site in route.sites)
