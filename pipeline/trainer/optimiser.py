"""One update, in the order project, clip, Adam, renormalise (research order of dictionary_learning's TopK trainers)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.config.training import TrainingSettings

Tensors = dict[str, Tensor]


def learning_rate(peak: float, settings: TrainingSettings, step: int) -> float:
    """Adam's step size at update `step` (0-based): linear warm-up, flat, linear decay that reaches 0 after the last."""
    rate = peak
    if step < settings.warmup_steps:
        rate *= (step + 1) / settings.warmup_steps
    decay_start = settings.decay_start * settings.n_steps
    if step > decay_start:
        rate *= (settings.n_steps - step) / (settings.n_steps - decay_start)
    return rate


def project_decoder_gradient(gradient: Tensor, W_dec: Tensor) -> None:
    """Remove in place the part of each row's gradient that would only change the row's norm. Both [E, M]."""
    norm_E = torch.linalg.vector_norm(W_dec, dim=1) + 1e-6
    along_E = torch.linalg.vecdot(gradient, W_dec) / norm_E.square()
    gradient.addcmul_(W_dec, along_E[:, None], value=-1.0)


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
        device = parameters[names[0]].device
        torch._fused_adam_(
            [parameters[name] for name in names],
            [gradients[name] for name in names],
            [self.mean[name] for name in names],
            [self.square[name] for name in names],
            [],
            [torch.tensor(float(step + 1), device=device) for _ in names],
            lr=rate,
            beta1=self.settings.beta1,
            beta2=self.settings.beta2,
            weight_decay=0.0,
            eps=self.settings.epsilon,
            amsgrad=False,
            maximize=False,
            grad_scale=None if coefficient == 1.0 else torch.tensor(1.0 / coefficient, device=device),
            found_inf=None,
        )


def renormalise_decoder(W_dec: Tensor) -> None:
    """Give every row of W_dec [E, M] norm 1, in place."""
    norm_E = torch.linalg.vector_norm(W_dec, dim=1, keepdim=True)
    W_dec.div_(norm_E + torch.finfo(W_dec.dtype).eps)
