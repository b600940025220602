"""Who computes: one small interface, and an implementation of it for each kind of machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, cast

from torch import Tensor

from pipeline.kernels import cpu, cuda, reference


class Backend(Protocol):
    """Everything that codes and selection leave to the machine; the encoder's product is a plain matrix product."""

    def weighted_sums(self, indices_P: Tensor, table: Tensor, offsets: Tensor, weights_P: Tensor) -> Tensor:
        """For each stretch of pairs, the sum of weight * table[index]: decoder, and both weights' gradients."""

    def sampled_dots(self, left_BM: Tensor, W_EM: Tensor, rows_P: Tensor, indices_P: Tensor, offsets: Tensor) -> Tensor:
        """<left_BM[row], W_EM[index]> of every pair: the gradient of the values."""

    def index_sums(self, values_P: Tensor, indices_P: Tensor, n: int) -> Tensor:
        """The sum of the values at each index: the gradient of the biases."""

    def row_topk(self, pre_BE: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Values and latents of the k largest of each row."""


BACKENDS: dict[str, Backend] = {
    "reference": cast(Backend, reference),
    "cpu": cast(Backend, cpu),
    "cuda": cast(Backend, cuda),
}
"""Name -> implementation. `reference` runs on any device, the others on theirs."""

_forced: list[Backend] = []


def backend_of(tensor: Tensor) -> Backend:
    """The implementation for the device that holds a tensor."""
    return _forced[-1] if _forced else BACKENDS.get(tensor.device.type, BACKENDS["reference"])


@contextmanager
def using(name: str) -> Iterator[None]:
    """Everything inside runs on one implementation, whatever the device."""
    _forced.append(BACKENDS[name])
    try:
        yield
    finally:
        _forced.pop()
