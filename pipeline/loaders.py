"""A store's rows for other trainers: new float32 batches, from an iterator or through torch's DataLoader."""

from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Unpack
from weakref import finalize

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from strata_sae.pipeline.reading.feed import to_tensor
from strata_sae.stores import ActivationStore, Batches, StreamOptions, StreamSettings


def activation_batches(
    store: ActivationStore,
    site: str,
    *,
    n_steps: int | None = None,
    scale: float | None = None,
    start_step: int = 0,
    device: torch.device | str = "cpu",
    **options: Unpack[StreamOptions],
) -> Iterator[Tensor]:
    """Batches `start_step` up to `n_steps` (None: without end) of a site, float32 [B, M], each in memory of its own.

    Batch t is `Batches(store, site, **options).batch(t)` times `scale`, whatever `start_step` is: begin at t to resume.
    The reading threads stop at the iterator's end, at its `close()`, or when nothing refers to it any more.

    Args:
        options: fields of `StreamSettings`: split, filters, seed, batch_size, window_rows, threads, shared.
    Raises: StoreError, at the call for an unknown site or split, at a batch for a damaged chunk.

    """
    return _Tensors(Batches(store, site, **options), _steps(start_step, n_steps), scale, torch.device(device))


class ActivationDataset(IterableDataset[Tensor]):
    """`activation_batches` on the CPU for `DataLoader(dataset, batch_size=None, num_workers=n)`.

    Worker i of n yields steps i, i + n, ... from `start_step`, and the loader takes from its workers in turn: the
    batches and their order are the same for every n. Each worker has windows and threads of its own and reads all of
    the store: more workers cost memory, and pay only if they do slow work on the batches.
    A dataset holds the store's address and the settings alone, so it pickles; each iterator opens the store.
    """

    def __init__(
        self,
        where: Path | str,
        site: str,
        *,
        n_steps: int | None = None,
        scale: float | None = None,
        start_step: int = 0,
        **options: Unpack[StreamOptions],
    ) -> None:
        """`where`: a folder or a URL, as for `ActivationStore.open`; the others are those of `activation_batches`."""
        super().__init__()
        self.where, self.site, self.settings = where, site, StreamSettings(**options)
        self.n_steps, self.scale, self.start_step = n_steps, scale, start_step

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        index, n_workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        batches = Batches(ActivationStore.open(self.where), self.site, self.settings)
        steps = islice(_steps(self.start_step, self.n_steps), index, None, n_workers)
        return _Tensors(batches, steps, self.scale, torch.device("cpu"))


class _Tensors(Iterator[Tensor]):
    """The batches of some steps, each a tensor in memory of its own."""

    def __init__(self, batches: Batches, steps: Iterable[int], scale: float | None, device: torch.device) -> None:
        self._batches, self._steps, self._scale, self._device = batches, iter(steps), scale, device
        # Called when the interpreter ends, too, while a pool of threads can still be stopped.
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
