"""A store's rows for other trainers: fresh float32 batches, as an iterator or for torch's DataLoader."""

from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from weakref import finalize

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from strata_sae.pipeline.tensors import to_tensor
from strata_sae.stores import ActivationStore, Batches, Filters


def activation_batches(
    store: ActivationStore,
    site: str,
    *,
    split: str = "train",
    filters: Filters | None = None,
    seed: int = 0,
    batch_size: int,
    window_rows: int = 2**20,
    n_steps: int | None = None,
    scale: float | None = None,
    start_step: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """Batches `start_step` up to `n_steps` (None: without end) of a site, float32 [B, M], each its reader's to change.

    Batch t is `stores.Batches.batch(t)` times `scale`, whatever `start_step` is: begin at t to resume. The reading
    threads end with the iterator: at its end, at `close()`, or when nothing refers to it any more.

    Raises: StoreError, at the call for an unknown site or split, at a batch for a damaged chunk.
    """
    batches = Batches(
        store, site, split=split, filters=filters, seed=seed, batch_size=batch_size, window_rows=window_rows
    )
    return _Tensors(batches, _steps(start_step, n_steps), scale, torch.device(device))


class ActivationDataset(IterableDataset[Tensor]):
    """`activation_batches` on the CPU for `DataLoader(dataset, batch_size=None, num_workers=n)`.

    Worker i of n yields steps i, i + n, ... from `start_step`, and the loader takes from its workers in turn: the
    batches and their order are the same for every n. Each worker keeps windows of its own and reads all of the store,
    with threads of its own: more workers cost memory and pay only where what follows in them is slow.
    It holds the place and the settings alone, so that it pickles; each iterator opens the store.
    """

    def __init__(
        self,
        where: Path | str,
        site: str,
        *,
        split: str = "train",
        filters: Filters | None = None,
        seed: int = 0,
        batch_size: int,
        window_rows: int = 2**20,
        n_steps: int | None = None,
        scale: float | None = None,
        start_step: int = 0,
    ) -> None:
        """`where`: a folder or a URL, as for `ActivationStore.open`."""
        super().__init__()
        self.where, self.site, self.split, self.filters, self.seed = where, site, split, filters, seed
        self.batch_size, self.window_rows, self.scale = batch_size, window_rows, scale
        self.n_steps, self.start_step = n_steps, start_step

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        index, n_workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        batches = Batches(
            ActivationStore.open(self.where),
            self.site,
            split=self.split,
            filters=self.filters,
            seed=self.seed,
            batch_size=self.batch_size,
            window_rows=self.window_rows,
        )
        steps = islice(_steps(self.start_step, self.n_steps), index, None, n_workers)
        return _Tensors(batches, steps, self.scale, torch.device("cpu"))


class _Tensors(Iterator[Tensor]):
    """Batches of these steps as tensors of their own."""

    def __init__(self, batches: Batches, steps: Iterable[int], scale: float | None, device: torch.device) -> None:
        self._batches, self._steps, self._scale, self._device = batches, iter(steps), scale, device
        # Also called when the interpreter ends, while there still is what a pool of threads needs to stop.
        self.close = finalize(self, batches.close)

    def __next__(self) -> Tensor:
        step = next(self._steps, None) if self.close.alive else None
        if step is None:
            self.close()
            raise StopIteration
        x_BM = to_tensor(self._batches.batch(step)[0], self._device)
        return x_BM if self._scale is None else x_BM.mul_(self._scale)


def _steps(start: int, stop: int | None) -> Iterable[int]:
    return count(start) if stop is None else range(start, stop)
