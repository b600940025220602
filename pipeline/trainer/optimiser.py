"""One update, in the order project, clip, Adam, renormalise (research order of dictionary_learning's TopK trainers)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.config.training import TrainingSettings

Tensors = dict[str, Tensor]
ROWS_AT_ONCE = 512
"""Decoder rows projected together (count): they stay in the cache, and what is computed of them stays small."""


def project_decoder_gradient(gradient: Tensor, W_dec: Tensor, epsilon: float = 1e-6) -> None:
    """Remove in place the part of each row's gradient that would only change the row's norm. Both [E, M].

    `epsilon` is added to a row's norm, as dictionary_learning's TopK family does; its ConstrainedAdam adds 0.
    """
    for gradient_EM, W_EM in zip(gradient.split(ROWS_AT_ONCE), W_dec.split(ROWS_AT_ONCE), strict=True):
        norm_E = torch.linalg.vector_norm(W_EM, dim=1) + epsilon
        along_E = torch.linalg.vecdot(gradient_EM, W_EM) / norm_E.square()
        gradient_EM.addcmul_(W_EM, along_E[:, None], value=-1.0)


def gradient_norm(gradients: Tensors) -> Tensor:
    """Norm of all gradients together, as one number on their device."""
    norms = torch.stack([torch.linalg.vector_norm(gradients[name]) for name in sorted(gradients)])
    return torch.linalg.vector_norm(norms)


def clip_coefficient(norm: float, limit: float | None) -> float:
    """What all gradients are multiplied by so that their norm stays within `limit`: min(1, limit / (norm + 1e-6))."""
    return 1.0 if limit is None else min(1.0, limit / (norm + 1e-6))


@dataclass
class Adam:
    """Adam's memory of a set of parameters, and its update."""

    settings: TrainingSettings
    mean: Tensors
    square: Tensors

    @classmethod
    def start(cls, settings: TrainingSettings, parameters: Tensors) -> "Adam":
        """Memory of nothing."""
        return cls(
            settings,
            {name: torch.zeros_like(parameter) for name, parameter in parameters.items()},
            {name: torch.zeros_like(parameter) for name, parameter in parameters.items()},
        )

    def update(self, parameters: Tensors, gradients: Tensors, *, step: int, rate: float, coefficient: float) -> None:
        """Change the parameters in place by update `step` (0-based). The gradients are used up (scaled in place).

        Source: Kingma & Ba 2014, algorithm 1; the clip is folded in through `grad_scale`, which divides.
        """
        names = sorted(parameters)
        device, dtype = parameters[names[0]].device, parameters[names[0]].dtype
        if dtype == torch.float64:  # grad_scale is a float32, whatever the gradients are
            torch._foreach_mul_([gradients[name] for name in names], coefficient)
            coefficient = 1.0
        scale = None if coefficient == 1.0 else torch.tensor(1.0 / coefficient, dtype=torch.float32, device=device)
        torch._fused_adam_(
            [parameters[name] for name in names],
            [gradients[name] for name in names],
            [self.mean[name] for name in names],
            [self.square[name] for name in names],
            [],
            [torch.tensor(step + 1, dtype=torch.float32, device=device) for _ in names],
            lr=rate,
            beta1=self.settings.beta1,
            beta2=self.settings.beta2,
            weight_decay=0.0,
            eps=self.settings.epsilon,
            amsgrad=False,
            maximize=False,
            grad_scale=scale,
            found_inf=None,
        )


def renormalise_decoder(W_dec: Tensor) -> None:
    """Give every row of W_dec [E, M] norm 1, in place."""
    norm_E = torch.linalg.vector_norm(W_dec, dim=1, keepdim=True)
    W_dec.div_(norm_E + torch.finfo(W_dec.dtype).eps)
