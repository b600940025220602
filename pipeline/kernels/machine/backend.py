"""Which implementation of the operations runs: one interface, and an implementation for each kind of machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.machine import cpu, cuda, reference
from strata_sae.pipeline.kernels.machine.reference import AdamStep, Entries, RowPairs


class Backend(Protocol):
    """What codes and selection ask of a machine, in plain tensors; the encoder's product is a plain matrix product.

    `P` counts entries: (row, latent) pairs that codes hold, one value each.
    """

    def weighted_sums(
        self, indices_P: Tensor, table: Tensor, offsets: Tensor, weights_P: Tensor, out: Tensor | None = None
    ) -> Tensor:
        """For each stretch of entries, the sum of weight * table[index]: decoder, and both weights' gradients."""

    def sampled_dots(self, left_BM: Tensor, W_EM: Tensor, rows_P: Tensor, indices_P: Tensor, offsets: Tensor) -> Tensor:
        """<left_BM[row], W_EM[index]> of every entry: the gradient of the values."""

    def index_sums(self, values_P: Tensor, indices_P: Tensor, n: int) -> Tensor:
        """The sum of the values at each index: the gradient of the biases."""

    def sort_by_index(self, indices_P: Tensor, rows_P: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """The order that sorts entries by index, their rows in it, and where each index begins."""

    def kth_largest(self, values_P: Tensor, k: int) -> float:
        """The k-th largest value."""

    def entries_above(self, tile: Tensor, bias: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        """Where tile + bias is above the threshold: values, rows and columns."""

    def row_topk(self, pre_BE: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Values and latents of the k largest of each row."""

    def row_topk_of_product(
        self, x0_BM: Tensor, W_EM: Tensor, b_E: Tensor, buffer: Tensor, k: int
    ) -> tuple[Tensor, Tensor]:
        """The same of x0 W^T + b, a tile at a time in the buffer."""

    def round_rows(self, matrix: Tensor, rounded: Tensor) -> tuple[Tensor, Tensor]:
        """Round a matrix into the first columns of a bfloat16 one; rows' norms after it, and of what is lost."""

    def certified_topk(
        self, pre_BE: Tensor, slack_B: Tensor, x0_BM: Tensor, W_EM: Tensor, b_E: Tensor, k: int, most: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As row_topk_of_product from bfloat16 products pre_BE, and the rows of which that is certain."""

    def pairs_together(self, entries: Entries, room_E: Tensor, least_E: Tensor, first: int, stop: int) -> RowPairs:
        """Pairs of a latent from `first` to stop - 1 and a larger one, active together at least min(least_E) times."""

    def pair_dots(self, W_EM: Tensor, entries: Entries, pairs: RowPairs) -> Tensor:
        """<W[i], W[j]> of every pair of latents."""

    def add_pair_sums(self, W_EM: Tensor, entries: Entries, pairs: RowPairs, weights: Tensor, out_EM: Tensor) -> None:
        """Add weight * W[j] to out[i] and weight * W[i] to out[j], for every pair of latents."""

    def row_products(self, gradient: Tensor, W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """<gradient, gradient>, <gradient, W> and <W, W> of each row."""

    def adam(
        self, W: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: AdamStep, along_E: Tensor | None = None
    ) -> None:
        """One update, in place."""


BACKENDS: dict[str, Backend] = {"reference": reference, "cpu": cpu, "cuda": cuda}
"""Name -> implementation. `reference` runs on any device, the others on theirs."""

COMPILED = (torch.float32, torch.float64)
"""Dtypes that the CPU's loops are compiled for; others run on `reference`."""
# Numba has no arithmetic in float16 and bfloat16 on a CPU, and nothing trains in them.

# A context variable, not a global: what a test forces ends with its block, and holds in no other thread.
_forced: ContextVar[str | None] = ContextVar("backend", default=None)


def backend_of(tensor: Tensor) -> Backend:
    """The implementation for a tensor's device and dtype."""
    if (name := _forced.get()) is not None:
        return BACKENDS[name]
    device = tensor.device.type  # other devices, such as `meta`, run on `reference`
    has_none = device not in BACKENDS or (device == "cpu" and tensor.dtype not in COMPILED)
    return BACKENDS["reference" if has_none else device]


@contextmanager
def using(name: str) -> Iterator[None]:
    """Everything inside runs on one implementation, whatever the device. For tests."""
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)
