"""Every loss term written out densely, for autograd: the reference that hand-written gradients must equal."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.objective.ort_sae import chunks
from strata_sae.pipeline.schedules import Schedule, value_at
from support.dense_aux_forms import AUX_FORMS
from support.dense_saes import ENCODERS, SAE_KNOBS, Dense, Parameters


class At(NamedTuple):
    """One batch: what it is, how it was encoded, and by which parameters."""

    x: Tensor
    dense: Dense
    dead: Tensor | None
    p: Parameters
    fraction_done: float


def squared_error(estimate_BM: Tensor, target_BM: Tensor, reduction: str) -> Tensor:
    if reduction == "fvu":
        return (target_BM - estimate_BM).square().mean() / (target_BM - target_BM.mean(0)).square().mean()
    error_BM = (target_BM - estimate_BM).square()
    return error_BM.sum(1).mean() if reduction == "sum" else error_BM.mean()


def reconstruction(at: At, knobs: Any) -> Tensor:
    return squared_error(at.dense.codes @ at.p["W_dec"] + at.p["b_dec"], at.x, knobs.reduction)


def prefix(at: At, knobs: Any) -> Tensor:
    d_sae = at.dense.codes.shape[1]
    if knobs.fractions is None:
        ends = knobs.ends
    else:
        ends = sorted({max(knobs.smallest, round(fraction * d_sae)) for fraction in knobs.fractions})
    losses = [
        squared_error(at.dense.codes[:, :n] @ at.p["W_dec"][:n] + at.p["b_dec"], at.x, knobs.reduction) for n in ends
    ]
    if knobs.compat == "dictionary_learning":
        return torch.stack([loss * (1 / len(ends)) for loss in losses]).mean()
    return torch.stack(losses).mean() if knobs.levels == "mean" else torch.stack(losses).sum()


def hierarchical_topk(at: At, knobs: Any) -> Tensor:
    losses = []
    for k in knobs.ks:
        chosen_BE = torch.zeros_like(at.dense.pre).scatter(1, at.dense.pre.topk(k, dim=1).indices, 1.0)
        estimate_BM = (at.dense.pre.relu() * chosen_BE) @ at.p["W_dec"] + at.p["b_dec"]
        losses.append(squared_error(estimate_BM, at.x, knobs.reduction))
    return torch.stack(losses).mean()


def multi_k(at: At, knobs: Any) -> Tensor:
    k = knobs.multiple * SAE_KNOBS["topk"]["k"]
    chosen_BE = torch.zeros_like(at.dense.pre).scatter(1, at.dense.pre.topk(k, dim=1).indices, 1.0)
    estimate_BM = (at.dense.pre.relu() * chosen_BE) @ at.p["W_dec"] + at.p["b_dec"]
    return squared_error(estimate_BM, at.x, knobs.reduction)


def l1(at: At, knobs: Any) -> Tensor:
    return at.dense.penalised.sum(1).mean()


def l1_decoder_norm(at: At, knobs: Any) -> Tensor:
    return (at.dense.penalised * at.p["W_dec"].norm(dim=1)).sum(1).mean()


def powers(at: At, p: float, epsilon: float) -> Tensor:
    """(code + epsilon)^p; its derivative where a code is 0 is left out, as a ReLU does."""
    on_BE = at.dense.penalised > 0
    return torch.where(on_BE, torch.where(on_BE, at.dense.penalised, 1.0) + epsilon, epsilon).pow(p)


def lp(at: At, knobs: Any) -> Tensor:
    p = value_at(knobs.p, at.fraction_done)
    sums_B = powers(at, p, knobs.epsilon).sum(1)
    return sums_B.mean() if knobs.form == "lp_p" else sums_B.pow(1 / p).mean()


def p_anneal(at: At, knobs: Any) -> Tensor:
    """Of a first step, where p is p_start."""
    sums_B = powers(at, knobs.p_start, knobs.epsilon).sum(1)
    return sums_B.mean() if knobs.form == "lp_p" else sums_B.pow(1 / knobs.p_start).mean()


def frequency_weighted_lp(at: At, knobs: Any) -> Tensor:
    """Of a first step, where the running frequency has seen this batch only."""
    weight = value_at(knobs.weight, at.fraction_done)
    frequency_E = knobs.beta * 0.01 + (1 - knobs.beta) * (at.dense.codes > 0).to(at.x.dtype).mean(0)
    w_E = (frequency_E + knobs.frequency_epsilon) ** -knobs.alpha
    lambda_E = weight * (w_E / w_E.mean() if knobs.normalise else w_E)
    if knobs.warmup_steps > 1:
        lambda_E = torch.full_like(lambda_E, weight)
    elif knobs.clip == "relative":
        lambda_E = lambda_E.clamp(weight * knobs.clip_min, weight * knobs.clip_max)
    elif knobs.clip == "absolute":
        lambda_E = lambda_E.clamp(knobs.clip_min, knobs.clip_max)
    return (powers(at, value_at(knobs.p, at.fraction_done), knobs.epsilon) * lambda_E).sum(1).mean() / weight


def aux_k(at: At, knobs: Any) -> Tensor:
    return AUX_FORMS[knobs.form](at, knobs)


def ghost_gradients(at: At, knobs: Any) -> Tensor:
    if at.dead is None or at.dead.sum() == 0:
        return at.x.new_zeros(())
    residual_BM = (at.x - at.dense.codes @ at.p["W_dec"] - at.p["b_dec"]).detach()
    ghost_BM = at.dense.pre[:, at.dead].exp() @ at.p["W_dec"][at.dead]
    scale_B = residual_BM.norm(dim=1) / (1e-6 + ghost_BM.norm(dim=1) * 2)
    error_BM = (ghost_BM * scale_B.detach()[:, None] - residual_BM).square()
    if knobs.rescale == "elements":
        return ((residual_BM.square() / (error_BM + 1e-6)).detach() * error_BM).sum(1).mean()
    return residual_BM.square().sum(1).mean() * error_BM.sum() / error_BM.sum().detach()


def orthogonality(at: At, knobs: Any) -> Tensor:
    on_BE = (at.dense.codes != 0).to(at.x.dtype)
    similarity_EE = at.p["W_dec"] @ at.p["W_dec"].T
    if knobs.on == "activations":
        similarity_EE = at.dense.codes.T @ at.dense.codes / len(at.x)
    threshold = max(value_at(knobs.threshold, at.fraction_done), knobs.floor)
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
                "lift": min(max(both / n_i, both / n_j) / float(on_BE.mean()), 10.0),
            }[knobs.normalisation]
            if knobs.shape == "linear":
                c = min(max((n - threshold) / threshold, 0.0), 1.0)
            elif knobs.shape == "proportional":
                c = n
            else:
                c = float(torch.sigmoid(torch.tensor((n - threshold) / knobs.temperature, dtype=torch.float64)))
            loss = loss + c * (similarity_EE[i, j].abs() if knobs.penalty == "absolute" else similarity_EE[i, j] ** 2)
    return loss / (len(on_BE.T) ** 2 if knobs.reduction == "mean" else 1)


def ort_sae(at: At, knobs: Any) -> Tensor:
    """The first step's."""
    unit_EM = torch.nn.functional.normalize(at.p["W_dec"], dim=1)
    cosine_EE = (unit_EM @ unit_EM.T).fill_diagonal_(-torch.inf)
    largest = [
        cosine_EE[i, chunk].max()
        for chunk in chunks(len(unit_EM), knobs.chunk_size, knobs.seed, knobs.every_steps)
        for i in chunk.tolist()
    ]
    return torch.stack(largest).square().mean()


def gated_auxiliary(at: At, knobs: Any) -> Tensor:
    W_dec, b_dec = at.p["W_dec"], at.p["b_dec"]
    if knobs.detached:
        W_dec, b_dec = W_dec.detach(), b_dec.detach()
    return (at.x - at.dense.penalised @ W_dec - b_dec).square().sum(1).mean()


def l0(at: At, knobs: Any) -> Tensor:
    n_B = at.dense.on.sum(1)
    if knobs.kind == "target":
        return (n_B.mean() / knobs.target - 1).square()
    if knobs.kind == "per_row":
        return (2 / knobs.target * (n_B - knobs.target).square()).mean()
    if knobs.kind == "penalty":
        return n_B.mean()
    return torch.tanh(knobs.scale * at.dense.codes * at.p["W_dec"].norm(dim=1)).sum(1).mean()


def pre_activation(at: At, knobs: Any) -> Tensor:
    counted_E = torch.ones_like(at.p["b_enc"]) if knobs.latents == "all" else at.dead
    gap_BE = (at.p["threshold"] - at.dense.pre).relu()
    return (gap_BE * at.p["W_dec"].norm(dim=1) * counted_E).sum(1).mean()


def two_child_cosine(at: At, knobs: Any) -> Tensor:
    """The source's loop over rows and active parents (torch's own cosine)."""
    codes_BE, W_dec = at.dense.codes.detach(), at.p["W_dec"]
    n = codes_BE.shape[1] // 3
    loss = at.x.new_zeros(())
    for row_E in codes_BE:
        for parent in (row_E[:n] > 0).nonzero().squeeze(1).tolist():
            children = [child for child in (n + parent, 2 * n + parent) if row_E[child] != 0]
            own_M = row_E[parent] * W_dec[parent]
            both_M = own_M + sum(row_E[child] * W_dec[child] for child in children)
            loss = loss - torch.nn.functional.cosine_similarity(own_M, both_M, dim=0)
    return loss / len(at.x)


LOSSES: dict[str, Callable[[At, Any], Tensor]] = {
    "reconstruction": reconstruction,
    "prefix_reconstruction": prefix,
    "hierarchical_topk": hierarchical_topk,
    "multi_k": multi_k,
    "l1": l1,
    "l1_decoder_norm": l1_decoder_norm,
    "lp": lp,
    "p_anneal": p_anneal,
    "frequency_weighted_lp": frequency_weighted_lp,
    "aux_k": aux_k,
    "ghost_gradients": ghost_gradients,
    "orthogonality": orthogonality,
    "ort_sae": ort_sae,
    "gated_auxiliary": gated_auxiliary,
    "l0": l0,
    "pre_activation": pre_activation,
    "two_child_cosine": two_child_cosine,
}
TERM_KNOBS: dict[str, dict[str, Any]] = {
    "reconstruction": {"weight": 1.5},
    "l1": {"weight": Schedule(start=0.0, end=0.4, finish=0.5)},
    "prefix_reconstruction": {"fractions": [0.125, 0.25, 0.5, 1.0]},
    "hierarchical_topk": {"ks": [1, 2, 4]},
    "multi_k": {"weight": 0.5},
    "l1_decoder_norm": {"weight": 0.3},
    "lp": {"weight": 0.2, "p": Schedule(start=1.0, end=0.5), "epsilon": 1e-3},
    "p_anneal": {"weight": 0.2, "p_start": 0.7},
    "frequency_weighted_lp": {"weight": 0.2, "p": 0.6, "warmup_steps": 0},
    "aux_k": {"weight": 0.25},
    "ghost_gradients": {"weight": 0.5},
    "orthogonality": {"weight": Schedule(shape="power", start=0.5, end=0.0), "threshold": 0.2},
    "ort_sae": {"weight": 0.5, "chunk_size": 20, "every_steps": 1},
    "gated_auxiliary": {"weight": 0.7},
    "l0": {"weight": 0.6, "target": 7.0},
    "pre_activation": {"weight": 0.3},
    "two_child_cosine": {"weight": 0.4},
}
FITS: dict[str, set[str]] = {
    "reconstruction": set(ENCODERS),
    "prefix_reconstruction": set(ENCODERS),
    "hierarchical_topk": {"topk"},
    "multi_k": {"topk", "batch_topk", "groupmax"},
    "l1": {"relu", "gated", "jump_relu"},
    "l1_decoder_norm": {"relu", "gated", "jump_relu"},
    "lp": {"relu", "gated"},
    "p_anneal": {"relu", "gated"},
    "frequency_weighted_lp": {"relu", "gated"},
    "aux_k": {"topk", "batch_topk", "groupmax"},
    "ghost_gradients": {"relu"},
    "orthogonality": {"topk", "batch_topk", "groupmax", "two_child_topk"},
    "ort_sae": set(ENCODERS),
    "gated_auxiliary": {"gated"},
    "l0": {"jump_relu"},
    "pre_activation": {"jump_relu"},
    "two_child_cosine": {"two_child_topk"},
}
"""The architectures each term fits; all others refuse it."""
SAE_CHANGES: dict[str, dict[str, Any]] = {"l1_decoder_norm": {"decoder": "free"}}
"""What a term needs of an SAE's settings, beside what SAE_KNOBS says."""
