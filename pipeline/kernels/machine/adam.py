"""One update of Adam, as PyTorch computes it: what the compiled loop has to equal, and what a GPU runs."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AdamStep:
    """The numbers of one update."""

    number: int
    """1-based."""
    rate: float
    beta1: float
    beta2: float
    epsilon: float
    coefficient: float
    """What gradients are multiplied by: the clip."""


def adam(
    W: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: AdamStep, along_E: Tensor | None = None
) -> None:
    """Change W, mean and square in place; the gradient is used up.

    along_E: rows of W have norm 1, and gradient - along_E * W is what would not change it; they get norm 1 afterwards.
    Source: Kingma & Ba 2014, algorithm 1; the clip is folded in through `grad_scale`, which divides.
    """
    if along_E is not None:
        gradient.addcmul_(W, along_E[:, None], value=-1.0)
    coefficient = step.coefficient
    if W.dtype == torch.float64:  # grad_scale is a float32, whatever the gradient is
        gradient.mul_(coefficient)
        coefficient = 1.0
    scale = None if coefficient == 1.0 else torch.tensor(1.0 / coefficient, dtype=torch.float32, device=W.device)
    torch._fused_adam_(
        [W],
        [gradient],
        [mean],
        [square],
        [],
        [torch.tensor(step.number, dtype=torch.float32, device=W.device)],
        lr=step.rate,
        beta1=step.beta1,
        beta2=step.beta2,
        weight_decay=0.0,
        eps=step.epsilon,
        amsgrad=False,
        maximize=False,
        grad_scale=scale,
        found_inf=None,
    )
    if along_E is not None:
        W.div_(torch.linalg.vector_norm(W, dim=1, keepdim=True) + torch.finfo(W.dtype).eps)


def row_products(gradient: Tensor, W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row: <gradient, gradient>, <gradient, W> and <W, W>. Returns: [E] each."""
    return (gradient * gradient).sum(1), (gradient * W).sum(1), (W * W).sum(1)
