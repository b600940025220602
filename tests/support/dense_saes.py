"""Every architecture written out densely, for autograd: the reference that hand-written gradients must equal."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, zeros_like

Parameters = dict[str, Tensor]


class Dense(NamedTuple):
    """A batch encoded: all [B, E]."""

    pre: Tensor
    codes: Tensor
    penalised: Tensor
    """What sparsity terms act on."""


def pre_activations(x_BM: Tensor, p: Parameters, knobs: Any) -> Tensor:
    return (x_BM - p["b_dec"] if knobs.pre_bias else x_BM) @ p["W_enc"].T + p["b_enc"]


def relu(x_BM: Tensor, p: Parameters, knobs: Any) -> Dense:
    pre_BE = pre_activations(x_BM, p, knobs)
    return Dense(pre_BE, pre_BE.relu(), pre_BE.relu())


def topk(x_BM: Tensor, p: Parameters, knobs: Any) -> Dense:
    pre_BE = pre_activations(x_BM, p, knobs)
    codes_BE = pre_BE.relu() * zeros_like(pre_BE).scatter(1, pre_BE.topk(knobs.k, dim=1).indices, 1.0)
    return Dense(pre_BE, codes_BE, codes_BE)


def batch_topk(x_BM: Tensor, p: Parameters, knobs: Any) -> Dense:
    pre_BE = pre_activations(x_BM, p, knobs)
    smallest = pre_BE.flatten().topk(knobs.k * pre_BE.shape[0]).values.min()
    codes_BE = pre_BE.relu() * (pre_BE >= smallest)
    return Dense(pre_BE, codes_BE, codes_BE)


ENCODERS: dict[str, Callable[[Tensor, Parameters, Any], Dense]] = {"relu": relu, "topk": topk, "batch_topk": batch_topk}
SAE_KNOBS: dict[str, dict[str, Any]] = {"relu": {}, "topk": {"k": 4}, "batch_topk": {"k": 4}}
"""Settings of each architecture in the conformance tests, beside d_sae."""
