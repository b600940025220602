"""Every architecture written out densely, for autograd: the reference that hand-written gradients must equal."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, zeros_like

Parameters = dict[str, Tensor]


class Dense(NamedTuple):
    """A batch encoded: all [B, E]."""

    pre: Tensor
    codes: Tensor
    penalised: Tensor
    """What sparsity terms act on."""
    on: Tensor | None = None
    """1 where a latent is active, with an estimated gradient, where the architecture has one."""


def pre_activations(x_BM: Tensor, p: Parameters, settings: Any) -> Tensor:
    W_enc = p["W_dec" if getattr(settings, "tied", False) else "W_enc"]
    return (x_BM - p["b_dec"] if settings.pre_bias else x_BM) @ W_enc.T + p["b_enc"]


def relu(x_BM: Tensor, p: Parameters, settings: Any) -> Dense:
    pre_BE = pre_activations(x_BM, p, settings)
    return Dense(pre_BE, pre_BE.relu(), pre_BE.relu())


def ranks(pre_BE: Tensor, p: Parameters, settings: Any) -> Tensor:
    return pre_BE * p["W_dec"].norm(dim=1) if settings.rank_by == "contribution" else pre_BE


def unranked(ranked_BE: Tensor, p: Parameters, settings: Any) -> Tensor:
    return ranked_BE / p["W_dec"].norm(dim=1) if settings.rank_by == "contribution" else ranked_BE


def topk(x_BM: Tensor, p: Parameters, settings: Any) -> Dense:
    """Ranked by contribution, as SAELens does: the norms, with their gradients, come in and go out again."""
    pre_BE = pre_activations(x_BM, p, settings)
    rank_BE = ranks(pre_BE, p, settings)
    codes_BE = rank_BE.relu() * zeros_like(rank_BE).scatter(1, rank_BE.topk(settings.k, dim=1).indices, 1.0)
    codes_BE = unranked(codes_BE, p, settings)
    return Dense(pre_BE, codes_BE, codes_BE)


def batch_topk(x_BM: Tensor, p: Parameters, settings: Any) -> Dense:
    pre_BE = pre_activations(x_BM, p, settings)
    rank_BE = ranks(pre_BE, p, settings)
    smallest = rank_BE.flatten().topk(settings.k * rank_BE.shape[0]).values.min()
    codes_BE = unranked(rank_BE.relu() * (rank_BE >= smallest), p, settings)
    return Dense(pre_BE, codes_BE, codes_BE)


def groupmax(x_BM: Tensor, p: Parameters, settings: Any) -> Dense:
    pre_BE = pre_activations(x_BM, p, settings)
    groups = pre_BE.relu().chunk(settings.k, dim=1)
    codes_BE = torch.cat([group_BE * (group_BE == group_BE.amax(1, keepdim=True)) for group_BE in groups], dim=1)
    return Dense(pre_BE, codes_BE, codes_BE)


def gated(x_BM: Tensor, p: Parameters, settings: Any) -> Dense:
    """dictionary_learning's GatedAutoEncoder."""
    product_BE = (x_BM - p["b_dec"] if settings.pre_bias else x_BM) @ p["W_enc"].T
    gate_BE = product_BE + p["b_gate"]
    magnitude_BE = (p["r_mag"].exp() * product_BE + p["b_mag"]).relu()
    return Dense(gate_BE, (gate_BE > 0) * magnitude_BE, gate_BE.relu())


def rectangle(distance: Tensor, bandwidth: float) -> Tensor:
    return ((distance / bandwidth > -0.5) & (distance / bandwidth < 0.5)).to(distance.dtype)


class Jump(torch.autograd.Function):
    """a where it is above the threshold; the gradient as published (Jumping Ahead, appendix J)."""

    @staticmethod
    def forward(ctx, a_BE, threshold_E, bandwidth, ste_to_input):
        ctx.save_for_backward(a_BE, threshold_E)
        ctx.settings = bandwidth, ste_to_input
        return a_BE * (a_BE > threshold_E)

    @staticmethod
    def backward(ctx, gradient_BE):
        a_BE, threshold_E = ctx.saved_tensors
        bandwidth, ste_to_input = ctx.settings
        jump_BE = threshold_E / bandwidth * rectangle(a_BE - threshold_E, bandwidth) * gradient_BE
        active_BE = (a_BE > threshold_E) * gradient_BE
        return active_BE + jump_BE if ste_to_input else active_BE, -jump_BE.sum(0), None, None


class Step(torch.autograd.Function):
    """1 where a is above the threshold."""

    @staticmethod
    def forward(ctx, a_BE, threshold_E, bandwidth, ste_to_input):
        ctx.save_for_backward(a_BE, threshold_E)
        ctx.settings = bandwidth, ste_to_input
        return (a_BE > threshold_E).to(a_BE.dtype)

    @staticmethod
    def backward(ctx, gradient_BE):
        a_BE, threshold_E = ctx.saved_tensors
        bandwidth, ste_to_input = ctx.settings
        step_BE = rectangle(a_BE - threshold_E, bandwidth) / bandwidth * gradient_BE
        return step_BE if ste_to_input else None, -step_BE.sum(0), None, None


def jump_relu(x_BM: Tensor, p: Parameters, settings: Any) -> Dense:
    pre_BE = pre_activations(x_BM, p, settings)
    how = (p["threshold"], settings.bandwidth, settings.ste_to_input)
    codes_BE = Jump.apply(pre_BE, *how)
    counted_BE = codes_BE if settings.compat == "dictionary_learning" else pre_BE
    return Dense(pre_BE, codes_BE, codes_BE, Step.apply(counted_BE, *how))


def two_child_topk(x_BM: Tensor, p: Parameters, settings: Any) -> Dense:
    """sae_hacking's TopkSparseAutoEncoder2Child_v2: everything full, then masked."""
    pre_BE = pre_activations(x_BM, p, settings)
    parent_BE, first_BE, second_BE = pre_BE.chunk(3, dim=1)
    chosen_BE = zeros_like(parent_BE).scatter(1, parent_BE.topk(settings.k, dim=1).indices, 1.0)
    parent_BE = (parent_BE if settings.signed else parent_BE.relu()) * chosen_BE
    first_BE, second_BE = ((parent_BE != 0) * child_BE for child_BE in (first_BE, second_BE))
    first_wins_BE = first_BE > second_BE
    first_BE, second_BE = first_wins_BE * first_BE, ~first_wins_BE * second_BE
    if not settings.signed:
        first_BE, second_BE = first_BE.relu(), second_BE.relu()
    codes_BE = torch.cat([parent_BE, first_BE, second_BE], dim=1)
    return Dense(pre_BE, codes_BE, codes_BE)


def identity(x_BM: Tensor, p: Parameters, settings: Any) -> Dense:
    """With W_dec the identity matrix and b_dec 0, as they are: xhat is x."""
    return Dense(x_BM, x_BM, x_BM)


ENCODERS: dict[str, Callable[[Tensor, Parameters, Any], Dense]] = {
    "relu": relu,
    "topk": topk,
    "batch_topk": batch_topk,
    "groupmax": groupmax,
    "gated": gated,
    "jump_relu": jump_relu,
    "two_child_topk": two_child_topk,
    "identity": identity,
}
SAE_SETTINGS: dict[str, dict[str, Any]] = {
    "relu": {},
    "topk": {"k": 4},
    "batch_topk": {"k": 4},
    "groupmax": {"k": 4},
    "gated": {},
    "jump_relu": {"initial_threshold": 0.3, "bandwidth": 0.4},
    "two_child_topk": {"k": 4},
    "identity": {"d_sae": 10},
}
"""Settings of each architecture in the conformance tests, beside d_sae."""
LAYOUTS: dict[str, str] = {"groupmax": "SparseCodes", "two_child_topk": "SparseCodes", "identity": "DenseCodes"}
"""Architectures whose codes have one layout, whatever their density."""
