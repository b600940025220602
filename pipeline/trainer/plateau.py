"""A learning rate that falls when a loss no longer does: the rule of PyTorch's ReduceLROnPlateau."""

import torch
from torch import Tensor

from strata_sae.pipeline.config.training import PlateauSettings

BEST, MISSES, FACTOR, SUM, COUNT = range(5)


class Plateau:
    """What the learning rate is multiplied by, and the losses that decide it."""

    def __init__(self, settings: PlateauSettings, decay_to: float) -> None:
        """decay_to: the factor falls no lower."""
        self.settings, self.decay_to = settings, decay_to
        self.numbers = torch.tensor([torch.inf, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
        """Best loss, looks since it, factor; sum and number of the training losses since the last look."""

    @property
    def factor(self) -> float:
        """What the learning rate is multiplied by."""
        return float(self.numbers[FACTOR])

    def count(self, loss: float) -> None:
        """Take in the training loss of one update, and look at their mean when that is due."""
        if self.settings.loss != "training":
            return
        self.numbers[SUM] += loss
        self.numbers[COUNT] += 1
        if self.numbers[COUNT] == self.settings.every_steps:
            self._look(float(self.numbers[SUM] / self.numbers[COUNT]))
            self.numbers[SUM:] = 0.0

    def measured(self, loss: float) -> None:
        """Take in a loss of the held-out rows."""
        if self.settings.loss == "heldout":
            self._look(loss)

    def _look(self, loss: float) -> None:
        """Source: torch.optim.lr_scheduler.ReduceLROnPlateau, mode min, threshold relative, no cooldown."""
        if loss < self.numbers[BEST] * (1.0 - self.settings.threshold):
            self.numbers[BEST], self.numbers[MISSES] = loss, 0.0
        else:
            self.numbers[MISSES] += 1
        if self.numbers[MISSES] > self.settings.patience:
            self.numbers[FACTOR] = max(self.factor * self.settings.factor, self.decay_to)
            self.numbers[MISSES] = 0.0

    def state(self) -> dict[str, Tensor]:
        """For checkpoints: the tensor itself."""
        return {"plateau.numbers": self.numbers}
