"""The rows of a store through one SAE, tile by tile: a row's codes are the same bits whoever encodes it, beside whatever.

How a processor sums a product may depend on its shape and on the number of threads. So every product here has the same
shape, that of a tile: tiles begin at multiples of ROWS_PER_TILE from the store's first row, the last one is filled with
zeros, and each is encoded by one thread. Threads and workers share tiles, not sums.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.kernels.codes import SparseCodes
from strata_sae.pipeline.reading.document_units import DocumentUnits
from strata_sae.pipeline.reading.feed import ROWS_IN_ORDER, side_by_side
from strata_sae.pipeline.runs.row_units import RowUnits
from strata_sae.pipeline.runs.trained import TrainedSAE
from strata_sae.stores import StoreError, Together

ROWS_PER_TILE = 512
"""Rows of one product (count): 4.7 MB of pre-activations at d_sae 2304, and as fast as any number above it (measured
128 to 4096). ROWS_IN_ORDER, which are read at once, is a multiple."""
_TILES_BYTES = 2**29
"""Of pre-activations at once, over all threads: with very many latents fewer threads work."""

Item = TypeVar("Item")
Made = TypeVar("Made")


class TileCodes(NamedTuple):
    """Codes of some rows, as an SAE gives them: unsorted in a row, and with entries of value 0."""

    offsets: np.ndarray
    """int64 [rows + 1]."""
    latents_P: np.ndarray
    """int64."""
    values_P: np.ndarray
    """float32."""


class RowsEncoder:
    """One SAE, and what it reads of a store."""

    def __init__(
        self, trained: TrainedSAE, stores: Together, route: Route, documents: DocumentUnits | None, device: torch.device
    ) -> None:
        """documents: those of the one site that is read, where the SAE was trained on rows standardised by them."""
        self.trained, self._stores, self._route = trained, stores, route
        self._documents, self._device = documents, device
        self._n_rows = stores.at(route.reads[0]).plan.n_rows

    @property
    def n_threads(self) -> int:
        """Threads that encode (count): as many as PyTorch would use, one for a GPU."""
        if self._device.type != "cpu":
            return 1
        # Pre-activations, and about as much again while they are compared and chosen from.
        tile_bytes = 2 * 4 * ROWS_PER_TILE * self.trained.sae.d_sae
        return max(1, min(torch.get_num_threads(), _TILES_BYTES // tile_bytes))

    def tiles(self, start: int, stop: int) -> Iterator[list[TileCodes]]:
        """The codes of rows [start, stop), in order, a list for each stretch that is read at once.

        Raises: StoreError at a row that is not finite.
        """
        first = start // ROWS_IN_ORDER * ROWS_IN_ORDER
        stretches = [(max(start, at), min(stop, at + ROWS_IN_ORDER)) for at in range(first, stop, ROWS_IN_ORDER)]
        n_threads = min(self.n_threads, len(stretches))
        with _one_thread_each():
            yield from _in_order(lambda some: self.stretch(*some), stretches, n_threads)

    @torch.inference_mode()
    def stretch(self, start: int, stop: int) -> list[TileCodes]:
        """The codes of rows [start, stop), by tiles."""
        first = start // ROWS_PER_TILE * ROWS_PER_TILE
        last = min(-(-stop // ROWS_PER_TILE) * ROWS_PER_TILE, self._n_rows)
        x_BM = self._rows(first, last)
        units = None if self._documents is None else self._documents.of(np.arange(first, last), self._device)
        found = []
        for at in range(first, last, ROWS_PER_TILE):
            here = slice(at - first, min(at + ROWS_PER_TILE, last) - first)
            part = None if units is None else RowUnits(units.mean_B[here], units.factor_B[here])
            codes = self._encoded(x_BM[here], part)
            found.append(_of_rows(codes, max(start - at, 0), min(stop - at, ROWS_PER_TILE)))
        return found

    def _rows(self, start: int, stop: int) -> Tensor:
        reads = self._route.reads
        x_BM = side_by_side([self._stores.at(site).rows(site, start, stop) for site in reads], None, self._device)
        finite_B = x_BM.sum(dim=1).isfinite()
        if not bool(finite_B.all()) and not bool((finite_B := x_BM.isfinite().all(dim=1)).all()):
            row = start + int(finite_B.int().argmin())
            raise StoreError(
                f"{self._stores.path}: {', '.join(reads)}: row {row} holds a number that is not finite, so it has no "
                "codes; extract the store again"
            )
        return x_BM

    def _encoded(self, x_BM: Tensor, units: RowUnits | None) -> SparseCodes:
        """Codes of the rows of a tile. Rows of documents that have no units have none: no filter lets them pass."""
        n_rows = x_BM.shape[0]
        if n_rows < ROWS_PER_TILE:
            x_BM = torch.nn.functional.pad(x_BM, (0, 0, 0, ROWS_PER_TILE - n_rows))
        if units is None:
            return self.trained.encode(x_BM).to_sparse()
        padded = [torch.nn.functional.pad(values_B, (0, ROWS_PER_TILE - n_rows)) for values_B in units]
        known_B = padded[0].isfinite() & padded[1].isfinite()
        mean_B, factor_B = (torch.where(known_B, values_B, 0.0) for values_B in padded)
        codes = self.trained.encode(x_BM, RowUnits(mean_B, factor_B)).to_sparse()
        return codes.with_values(codes.values * codes.spread_rows(known_B.to(codes.values)))


def _of_rows(codes: SparseCodes, start: int, stop: int) -> TileCodes:
    """The codes of some rows of a tile."""
    offsets = codes.offsets[start : stop + 1].cpu().numpy().astype(np.int64)
    some = slice(int(offsets[0]), int(offsets[-1]))
    latents_P, values_P = (tensor[some].cpu().numpy() for tensor in (codes.indices_P, codes.values_P))
    return TileCodes(offsets - offsets[0], latents_P.astype(np.int64, copy=False), values_P.astype(np.float32))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Within the block PyTorch uses one thread for each operation, in threads that begin there too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_order(make: Callable[[Item], Made], items: Iterable[Item], n_threads: int) -> Iterator[Made]:
    """What `make` makes of each item, in order; a few are made ahead. A block that ends early waits for these."""
    if n_threads <= 1:
        yield from map(make, items)
        return
    made: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(n_threads, thread_name_prefix="codes") as pool:
        try:
            for item in items:
                made.append(pool.submit(make, item))
                if len(made) > n_threads:
                    yield made.popleft().result()
            while made:
                yield made.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
