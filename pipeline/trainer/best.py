"""Early stopping: the weights at the lowest held-out loss, and when to give up waiting for a lower one."""

from collections.abc import Mapping

import torch
from torch import Tensor

LOSS, STEP, MISSES = range(3)
READERS = "best.for_readers."
"""In front of these keys of a checkpoint."""


class Best:
    """The lowest held-out loss so far, and copies of the weights that had it."""

    def __init__(self, patience: int, weights: Mapping[str, Tensor]) -> None:
        """`weights` are copied and restored in place. patience: measurements without a lower loss (count)."""
        self.patience = patience
        self.numbers = torch.tensor([torch.inf, 0.0, 0.0], dtype=torch.float64)
        """Lowest loss, its step (updates done), measurements since."""
        self.for_readers: dict[str, Tensor] = {}
        """What the final file holds of the loss terms, as it was then."""
        self._weights = dict(weights)
        self._copies = {name: tensor.clone() for name, tensor in weights.items()}

    @property
    def step(self) -> int | None:
        """The step of the lowest loss (updates done); None before any is finite."""
        return int(self.numbers[STEP]) if self.numbers[LOSS].isfinite() else None

    @property
    def gave_up(self) -> bool:
        """Whether the patience is used up. Source: HypotheSAEs' train_sae, which counts the same way."""
        return int(self.numbers[MISSES]) >= self.patience

    def measured(self, loss: float, step: int, for_readers: Mapping[str, Tensor] | None = None) -> None:
        """Take in the held-out loss after `step` updates. for_readers: what the terms would write then."""
        if loss < self.numbers[LOSS]:
            # In float32 a loss equal to the lowest could be below it.
            self.numbers[:] = torch.tensor([loss, step, 0.0], dtype=torch.float64)
            for name, copy in self._copies.items():
                copy.copy_(self._weights[name])
            self.for_readers = {name: tensor.clone() for name, tensor in (for_readers or {}).items()}
        else:
            self.numbers[MISSES] += 1

    def restore(self) -> None:
        """Go back to the weights of the lowest loss; none where no loss was finite."""
        if self.step is not None:
            for name, copy in self._copies.items():
                self._weights[name].copy_(copy)

    def reason(self) -> str:
        """Why training stopped, in words."""
        n_measured = int(self.numbers[MISSES])
        if self.step is None:
            return f"no held-out loss was finite in {n_measured} measurements"
        lowest = float(self.numbers[LOSS])
        return f"the held-out loss has not fallen below {lowest:.6g} of step {self.step} in {n_measured} measurements"

    def state(self) -> dict[str, Tensor]:
        """For checkpoints: the tensors themselves."""
        readers = {f"{READERS}{name}": tensor for name, tensor in self.for_readers.items()}
        copies = {f"best.{name}": copy for name, copy in self._copies.items()}
        return {"best.numbers": self.numbers, **copies, **readers}

    def load_readers(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what a checkpoint holds of the loss terms; which tensors there are, terms decide as they go."""
        found = {name.removeprefix(READERS): t.clone() for name, t in tensors.items() if name.startswith(READERS)}
        self.for_readers = found
