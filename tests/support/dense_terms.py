"""Every loss term written out densely, for autograd: the reference that hand-written gradients must equal."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from dense_saes import ENCODERS, Dense, Parameters
from torch import Tensor

from pipeline.schedules import Schedule, value_at


class At(NamedTuple):
    """One batch: what it is, how it was encoded, and by which parameters."""

    x: Tensor
    dense: Dense
    dead: Tensor | None
    p: Parameters
    progress: float


def reconstruction(at: At, knobs: Any) -> Tensor:
    return (at.x - at.dense.codes @ at.p["W_dec"] - at.p["b_dec"]).square().sum(1).mean()


def l1(at: At, knobs: Any) -> Tensor:
    return at.dense.codes.sum(1).mean()


def prefix(at: At, knobs: Any) -> Tensor:
    losses = []
    for fraction in knobs.fractions:
        n = round(fraction * at.dense.codes.shape[1])
        losses.append((at.x - at.dense.codes[:, :n] @ at.p["W_dec"][:n] - at.p["b_dec"]).square().sum(1).mean())
    return torch.stack(losses).mean()


def aux_k(at: At, knobs: Any) -> Tensor:
    if at.dead is None or at.dead.sum() == 0:
        return at.x.new_zeros(())
    residual_BM = (at.x - at.dense.codes @ at.p["W_dec"] - at.p["b_dec"]).detach()
    k_aux = min(at.x.shape[1] // 2, int(at.dead.sum()))
    masked_BE = torch.where(at.dead, at.dense.pre.relu(), -1.0)
    chosen_BE = torch.zeros_like(at.dense.pre).scatter(1, masked_BE.topk(k_aux, dim=1).indices, 1.0)
    estimate_BM = (at.dense.pre.relu() * chosen_BE) @ at.p["W_dec"]
    variance = (residual_BM - residual_BM.mean(0)).square().sum(1).mean()
    return (residual_BM - estimate_BM).square().sum(1).mean() / variance


def orthogonality(at: At, knobs: Any) -> Tensor:
    on_BE = (at.dense.codes > 0).to(at.x.dtype)
    threshold = max(value_at(knobs.threshold, at.progress), knobs.floor)
    loss = at.x.new_zeros(())
    for i in range(on_BE.shape[1]):
        for j in range(on_BE.shape[1]):
            both, n_i, n_j = float(on_BE[:, i] @ on_BE[:, j]), float(on_BE[:, i].sum()), float(on_BE[:, j].sum())
            if i == j or both == 0:
                continue
            n = {
                "min": both / min(n_i, n_j),
                "batch": both / len(at.x),
                "jaccard": both / (n_i + n_j - both),
                "conditional": both / n_i,
            }[knobs.normalisation]
            if knobs.shape == "linear":
                c = min(max((n - threshold) / threshold, 0.0), 1.0)
            else:
                c = float(torch.sigmoid(torch.tensor((n - threshold) / knobs.temperature, dtype=torch.float64)))
            loss = loss + c * (at.p["W_dec"][i] @ at.p["W_dec"][j]).abs()
    return loss


LOSSES: dict[str, Callable[[At, Any], Tensor]] = {
    "reconstruction": reconstruction,
    "l1": l1,
    "prefix_reconstruction": prefix,
    "aux_k": aux_k,
    "orthogonality": orthogonality,
}
TERM_KNOBS: dict[str, dict[str, Any]] = {
    "reconstruction": {"weight": 1.5},
    "l1": {"weight": Schedule(start=0.0, end=0.4, finish=0.5)},
    "prefix_reconstruction": {"fractions": [0.125, 0.25, 0.5, 1.0]},
    "aux_k": {"weight": 0.25},
    "orthogonality": {"weight": Schedule(shape="power", start=0.5, end=0.0), "threshold": 0.2},
}
FITS: dict[str, set[str]] = {
    "reconstruction": set(ENCODERS),
    "l1": {"relu"},
    "prefix_reconstruction": set(ENCODERS),
    "aux_k": {"topk", "batch_topk"},
    "orthogonality": {"topk", "batch_topk"},
}
"""The architectures each term fits; all others refuse it."""
