"""SAELens's trainer through our names and layouts. Import it only where that library is installed."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from support.lockstep import Weights, default_dtype

INPUTS_FIRST = {"W_enc"}
"""Its matrices that are the transpose of ours."""


def ours(name: str, tensor: Tensor) -> Tensor:
    """A copy in our layout."""
    return (tensor.T if name in INPUTS_FIRST else tensor).detach().clone(memory_format=torch.contiguous_format)


class SAELens:
    """A training SAE of theirs in float64, and its trainer."""

    def __init__(
        self, architecture: str, *, rate: float, steps: int, batch: int, warmup: int = 0, **settings: Any
    ) -> None:
        from sae_lens.config import SAETrainerConfig
        from sae_lens.registry import get_sae_training_class
        from sae_lens.training.sae_trainer import SAETrainer

        torch.manual_seed(0)
        sae_class, config_class = get_sae_training_class(architecture)
        with default_dtype(torch.float64):
            self.sae = sae_class(config_class(dtype="float64", device="cpu", **settings))
            if "threshold" in dict(self.sae.named_parameters()):
                self.sae.threshold = nn.Parameter(self.sae.threshold.double())
            sizes = {"total_training_samples": steps * batch, "train_batch_size_samples": batch}
            config = SAETrainerConfig(lr=rate, lr_end=rate, lr_warm_up_steps=warmup, **sizes)
            self.trainer = SAETrainer(config, self.sae, data_provider=nothing())

    def update(self, step: int, x_BM: Tensor) -> float:
        """One update. Returns: its loss."""
        with default_dtype(torch.float64):
            output = self.trainer.step(x_BM)
            self.trainer.n_training_steps += 1
        return output.loss.item()

    def gradients(self, x_BM: Tensor, dead_E: Tensor | None, coefficients: dict[str, float]) -> tuple[float, Weights]:
        """Loss and gradients of one batch, nothing clipped or changed."""
        from sae_lens.saes.sae import TrainStepInput

        self.sae.zero_grad()
        asked = {"sae_in": x_BM, "dead_neuron_mask": dead_E, "coefficients": coefficients}
        with default_dtype(torch.float64):
            output = self.sae.training_forward_pass(TrainStepInput(**asked, n_training_steps=0, is_logging_step=False))
            output.loss.backward()
        return output.loss.item(), {name: ours(name, p.grad) for name, p in self.sae.named_parameters()}

    def weights(self) -> Weights:
        """Its parameters now, by our checkpoint keys."""
        return {name: ours(name, parameter) for name, parameter in self.sae.named_parameters()}


def nothing() -> Iterator[Tensor]:
    """The data of a trainer that is handed its batches."""
    yield from ()
