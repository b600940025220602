"""Ranks: processes that hold one SAE together, each a range of its latents. Everything they exchange goes through here.

The batch, b_dec and all decisions are the same on every rank; W_enc, b_enc, W_dec, a latent's threshold and what the
optimiser remembers of them are held by one rank each.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

OF_LATENTS = {"W_enc", "W_dec", "b_enc", "threshold", "rows_since_active"}
"""Last parts of the names of tensors that have a row for each latent; each rank holds those of its own."""
Reduction = Literal["sum", "smallest"]


def is_of_latents(name: str) -> bool:
    """Whether a tensor of this name, in a file of weights or a checkpoint, has a row for each latent."""
    return name.rpartition(".")[2] in OF_LATENTS


@dataclass
class Sent:
    """What a rank has handed to others so far."""

    gathered_bytes: int = 0
    """Of tensors that every rank got of this one."""
    reduced_bytes: int = 0
    """Of tensors that were summed, or of which the smallest was taken, over ranks."""
    rows_again: int = 0
    """Rows of which a short offer did not suffice (count)."""

    def bytes_of_rank(self, n_ranks: int) -> int:
        """Bytes that each rank sends: n - 1 times what is gathered, 2 (n - 1) / n times what is reduced (a ring's)."""
        return (n_ranks - 1) * self.gathered_bytes + 2 * (n_ranks - 1) * self.reduced_bytes // n_ranks


class Ranks:
    """Which part this process holds, and the exchanges with the others. This class: one process that holds all.

    Every exchange is made by all ranks in the same order, and gives all of them the same bits.
    """

    def __init__(self, rank: int = 0, n: int = 1, device: torch.device | None = None, n_here: int = 1) -> None:
        """Of ranks numbered from 0, this is `rank` of `n`, of which n_here share this machine.

        device: where what they exchange lies; None: the CPU.
        """
        self.rank, self.n, self.n_here, self.sent = rank, n, n_here, Sent()
        self.device = device or torch.device("cpu")

    def latents(self, n_latents: int) -> range:
        """The latents that this rank holds: [rank E / n, (rank + 1) E / n), rounded down."""
        return range(self.rank * n_latents // self.n, (self.rank + 1) * n_latents // self.n)

    def of(self, rank: int) -> "Ranks":
        """Another one of them, to ask which latents it holds."""
        return Ranks(rank, self.n)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in the place of the tensor."""
        return self._reduced(tensor, "sum")

    def smallest(self, tensor: Tensor) -> Tensor:
        """The smallest over ranks of each element, in the place of the tensor."""
        return self._reduced(tensor, "smallest")

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks, which have one shape. Returns: [n, ...]."""
        if self.n == 1:
            return tensor[None]
        self.sent.gathered_bytes += tensor.numel() * tensor.element_size()
        return self._gather(tensor.contiguous())

    def norms(self, norms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Norms of whole tensors by name, 0-dim, from those of the parts that each rank holds."""
        if self.n == 1:
            return norms
        parts = [name for name in norms if is_of_latents(name)]
        squares = self.sum(torch.stack([norms[name].double().square() for name in parts]))
        return norms | {name: square.sqrt().to(norms[name]) for name, square in zip(parts, squares, strict=True)}

    def count(self, number: int) -> int:
        """The sum of a number over ranks."""
        return number if self.n == 1 else int(self.sum(torch.tensor(number, device=self.device)))

    def least(self, number: int) -> int:
        """The smallest of a number over ranks."""
        return number if self.n == 1 else int(self.smallest(torch.tensor(number, device=self.device)))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank. No rank goes on before all have asked."""
        return self.count(int(flag)) > 0

    def _reduced(self, tensor: Tensor, how: Reduction) -> Tensor:
        if self.n > 1:
            self.sent.reduced_bytes += tensor.numel() * tensor.element_size()
            self._reduce(tensor, how)
        return tensor

    def _reduce(self, tensor: Tensor, how: Reduction) -> None:
        """Take the sum, or the smallest, over ranks, in the place of the tensor."""
        raise NotImplementedError

    def _gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks: [n, ...]."""
        raise NotImplementedError


ONE = Ranks()
"""One process that holds all latents: every exchange gives back what it was given."""
