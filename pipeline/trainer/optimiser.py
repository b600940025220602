"""One update: project, clip, Adam, renormalise, in the order of dictionary_learning's TopK trainers."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from strata_sae.pipeline.config.training import ResolvedTraining
from strata_sae.pipeline.kernels.machine.backend import AdamStep, backend_of
from strata_sae.pipeline.sharding.ranks import ONE, Ranks, is_of_latents

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Radial:
    """The part of W_dec's gradient along its rows, which would only change their norms; those stay 1."""

    along_E: Tensor
    """The part, in multiples of each row."""
    square: Tensor
    """Squared norm of the whole gradient, 0-dim float64."""
    square_without: Tensor
    """Squared norm of the gradient without the part, 0-dim float64."""


def radial_part(gradient: Tensor, W_dec: Tensor, epsilon: float = 1e-6) -> Radial:
    """The radial part of the gradient of W_dec, both [E, M].

    `epsilon` is added to a row's norm, as dictionary_learning's TopK family does; its ConstrainedAdam adds 0.
    """
    products = backend_of(W_dec).row_products(gradient, W_dec)
    gg_E, gw_E, ww_E = (product.double() for product in products)
    along_E = gw_E / (ww_E.sqrt() + epsilon).square()
    without_E = (gg_E - along_E * (2 * gw_E - along_E * ww_E)).clamp(min=0)
    return Radial(along_E.to(W_dec.dtype), gg_E.sum(), without_E.sum())


def gradient_norm(gradients: Tensors, square_of_W_dec: Tensor | None = None, ranks: Ranks = ONE) -> Tensor:
    """Norm of all gradients of all ranks together, 0-dim on their device.

    square_of_W_dec: squared norm of W_dec's gradient here, if known.
    """
    known = {} if square_of_W_dec is None else {"W_dec": square_of_W_dec}
    rest = [name for name in gradients if name not in known]
    squares = {name: torch.linalg.vector_norm(gradients[name]).double().square() for name in rest}
    # What all ranks hold alike is counted once, by the first.
    counted = [s if ranks.rank == 0 or is_of_latents(name) else s.zero_() for name, s in (known | squares).items()]
    return ranks.sum(torch.stack(counted)).sum().sqrt()


def clip_coefficient(norm: float, limit: float | None) -> float:
    """Factor of all gradients that keeps their norm within `limit`: min(1, limit / (norm + 1e-6)), as torch's clip."""
    return 1.0 if limit is None else min(1.0, limit / (norm + 1e-6))


def learning_rate(settings: ResolvedTraining, step: int) -> float:
    """Adam's step size at update `step` (0-based): linear warm-up, constant, then a decay that ends at `decay_to`.

    Without the factor of a plateau, which depends on the losses (`trainer/plateau.py`).
    Source: dictionary_learning's get_lr_schedule, whose warm-up is t / warmup (`compat`); SAELens' is (t + 1) / warmup;
    the cosine is that of PyTorch's CosineAnnealingLR.
    """
    rate = settings.learning_rate
    if step < settings.warmup_steps:
        rate *= (step + (settings.compat != "dictionary_learning")) / settings.warmup_steps
    decay_step = settings.decay_start * settings.n_steps
    if settings.decay != "plateau" and step > decay_step:
        left = (settings.n_steps - step) / (settings.n_steps - decay_step)
        fall = left if settings.decay == "linear" else (1 - math.cos(math.pi * left)) / 2
        rate *= fall if settings.decay_to == 0 else settings.decay_to + (1 - settings.decay_to) * fall
    return rate


@dataclass
class Adam:
    """Adam's memory of a set of parameters, and its update."""

    settings: ResolvedTraining
    mean: Tensors
    square: Tensors

    @classmethod
    def start(cls, settings: ResolvedTraining, parameters: Tensors) -> "Adam":
        """The memory before the first update: zeros."""
        return cls(
            settings,
            {name: torch.zeros_like(parameter) for name, parameter in parameters.items()},
            {name: torch.zeros_like(parameter) for name, parameter in parameters.items()},
        )

    def update(
        self,
        parameters: Tensors,
        gradients: Tensors,
        *,
        step: int,
        rate: float,
        coefficient: float,
        radial: Radial | None = None,
    ) -> None:
        """Change the parameters in place by update `step` (0-based). The gradients are overwritten.

        radial: where W_dec's rows have norm 1. That part is left out of the gradient, and the rows get norm 1 again.
        """
        s = self.settings
        numbers = AdamStep(step + 1, rate, s.beta1, s.beta2, s.epsilon, coefficient, 1 - rate * s.weight_decay)
        for name, parameter in parameters.items():
            along_E = radial.along_E if radial is not None and name == "W_dec" else None
            memories = self.mean[name], self.square[name]
            backend_of(parameter).adam(parameter, gradients[name], *memories, numbers, along_E)
