"""Every loss term written out densely, for autograd: the reference that hand-written gradients must equal."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.objective.ort_sae import chunks
from strata_sae.pipeline.schedules import Schedule, value_at
from support.dense_aux_forms import AUX_FORMS
from support.dense_saes import ENCODERS, SAE_SETTINGS, Dense, Parameters


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


def reconstruction(at: At, settings: Any) -> Tensor:
    return squared_error(at.dense.codes @ at.p["W_dec"] + at.p["b_dec"], at.x, settings.reduction)


def prefix(at: At, settings: Any) -> Tensor:
    d_sae = at.dense.codes.shape[1]
    if settings.fractions is None:
        ends = settings.ends
    else:
        ends = sorted({max(settings.smallest, round(fraction * d_sae)) for fraction in settings.fractions})
    losses = [
        squared_error(at.dense.codes[:, :n] @ at.p["W_dec"][:n] + at.p["b_dec"], at.x, settings.reduction) for n in ends
    ]
    if settings.compat == "dictionary_learning":
        return torch.stack([loss * (1 / len(ends)) for loss in losses]).mean()
    return torch.stack(losses).mean() if settings.levels == "mean" else torch.stack(losses).sum()


def hierarchical_topk(at: At, settings: Any) -> Tensor:
    losses = []
    for k in settings.ks:
        chosen_BE = torch.zeros_like(at.dense.pre).scatter(1, at.dense.pre.topk(k, dim=1).indices, 1.0)
        estimate_BM = (at.dense.pre.relu() * chosen_BE) @ at.p["W_dec"] + at.p["b_dec"]
        losses.append(squared_error(estimate_BM, at.x, settings.reduction))
    return torch.stack(losses).mean()


def multi_k(at: At, settings: Any) -> Tensor:
    k = settings.multiple * SAE_SETTINGS["topk"]["k"]
    chosen_BE = torch.zeros_like(at.dense.pre).scatter(1, at.dense.pre.topk(k, dim=1).indices, 1.0)
    estimate_BM = (at.dense.pre.relu() * chosen_BE) @ at.p["W_dec"] + at.p["b_dec"]
    return squared_error(estimate_BM, at.x, settings.reduction)


def l1(at: At, settings: Any) -> Tensor:
    return at.dense.penalised.sum(1).mean()


def l1_decoder_norm(at: At, settings: Any) -> Tensor:
    return (at.dense.penalised * at.p["W_dec"].norm(dim=1)).sum(1).mean()


def powers(at: At, p: float, epsilon: float) -> Tensor:
    """(code + epsilon)^p; its derivative where a code is 0 is left out, as a ReLU does."""
    active_BE = at.dense.penalised > 0
    return torch.where(active_BE, torch.where(active_BE, at.dense.penalised, 1.0) + epsilon, epsilon).pow(p)


def lp(at: At, settings: Any) -> Tensor:
    p = value_at(settings.p, at.fraction_done)
    sums_B = powers(at, p, settings.epsilon).sum(1)
    return sums_B.mean() if settings.form == "lp_p" else sums_B.pow(1 / p).mean()


def p_anneal(at: At, settings: Any) -> Tensor:
    """Of a first step, where p is p_start."""
    sums_B = powers(at, settings.p_start, settings.epsilon).sum(1)
    return sums_B.mean() if settings.form == "lp_p" else sums_B.pow(1 / settings.p_start).mean()


def frequency_weighted_lp(at: At, settings: Any) -> Tensor:
    """Of a first step, where the running frequency has seen this batch only."""
    weight = value_at(settings.weight, at.fraction_done)
    frequency_E = settings.beta * 0.01 + (1 - settings.beta) * (at.dense.codes > 0).to(at.x.dtype).mean(0)
    w_E = (frequency_E + settings.frequency_epsilon) ** -settings.alpha
    lambda_E = weight * (w_E / w_E.mean() if settings.normalise else w_E)
    if settings.warmup_steps > 1:
        lambda_E = torch.full_like(lambda_E, weight)
    elif settings.clip == "relative":
        lambda_E = lambda_E.clamp(weight * settings.clip_min, weight * settings.clip_max)
    elif settings.clip == "absolute":
        lambda_E = lambda_E.clamp(settings.clip_min, settings.clip_max)
    return (powers(at, value_at(settings.p, at.fraction_done), settings.epsilon) * lambda_E).sum(1).mean() / weight


def aux_k(at: At, settings: Any) -> Tensor:
    return AUX_FORMS[settings.form](at, settings)


def ghost_gradients(at: At, settings: Any) -> Tensor:
    if at.dead is None or at.dead.sum() == 0:
        return at.x.new_zeros(())
    residual_BM = (at.x - at.dense.codes @ at.p["W_dec"] - at.p["b_dec"]).detach()
    ghost_BM = at.dense.pre[:, at.dead].exp() @ at.p["W_dec"][at.dead]
    scale_B = residual_BM.norm(dim=1) / (1e-6 + ghost_BM.norm(dim=1) * 2)
    error_BM = (ghost_BM * scale_B.detach()[:, None] - residual_BM).square()
    if settings.rescale == "elements":
        return ((residual_BM.square() / (error_BM + 1e-6)).detach() * error_BM).sum(1).mean()
    return residual_BM.square().sum(1).mean() * error_BM.sum() / error_BM.sum().detach()


def orthogonality(at: At, settings: Any) -> Tensor:
    active_BE = (at.dense.codes != 0).to(at.x.dtype)
    similarity_EE = at.p["W_dec"] @ at.p["W_dec"].T
    if settings.on == "activations":
        similarity_EE = at.dense.codes.T @ at.dense.codes / len(at.x)
    threshold = max(value_at(settings.threshold, at.fraction_done), settings.floor)
    loss = at.x.new_zeros(())
    if at.fraction_done < settings.from_progress:
        return loss
    for i in range(active_BE.shape[1]):
        for j in range(active_BE.shape[1]):
            both, n_i, n_j = (
                float(active_BE[:, i] @ active_BE[:, j]),
                float(active_BE[:, i].sum()),
                float(active_BE[:, j].sum()),
            )
            if i == j or (both == 0 and settings.shape == "sigmoid_co_active"):
                continue
            n = 0.0
            if both:
                n = {
                    "min": both / min(n_i, n_j),
                    "batch": both / len(at.x),
                    "jaccard": both / (n_i + n_j - both),
                    "conditional": both / n_i,
                    "lift": min(max(both / n_i, both / n_j) / float(active_BE.mean()), 10.0),
                }[settings.normalisation]
            if settings.shape == "linear":
                c = min(max((n - threshold) / threshold, 0.0), 1.0)
            elif settings.shape == "proportional":
                c = n
            else:
                c = float(torch.sigmoid(torch.tensor((n - threshold) / settings.temperature, dtype=torch.float64)))
            loss = loss + c * (
                similarity_EE[i, j].abs() if settings.penalty == "absolute" else similarity_EE[i, j] ** 2
            )
    return loss / (len(active_BE.T) ** 2 if settings.reduction == "mean" else 1)


def ort_sae(at: At, settings: Any) -> Tensor:
    """The first step's."""
    unit_EM = torch.nn.functional.normalize(at.p["W_dec"], dim=1)
    cosine_EE = (unit_EM @ unit_EM.T).fill_diagonal_(-torch.inf)
    largest = [
        cosine_EE[i, chunk].max()
        for chunk in chunks(len(unit_EM), settings.chunk_size, settings.seed, settings.every_steps)
        for i in chunk.tolist()
    ]
    return torch.stack(largest).square().mean()


def gated_auxiliary(at: At, settings: Any) -> Tensor:
    W_dec, b_dec = at.p["W_dec"], at.p["b_dec"]
    if settings.detached:
        W_dec, b_dec = W_dec.detach(), b_dec.detach()
    return (at.x - at.dense.penalised @ W_dec - b_dec).square().sum(1).mean()


def l0(at: At, settings: Any) -> Tensor:
    n_B = at.dense.on.sum(1)
    if settings.kind == "target":
        return (n_B.mean() / settings.target - 1).square()
    if settings.kind == "per_row":
        return (2 / settings.target * (n_B - settings.target).square()).mean()
    if settings.kind == "penalty":
        return n_B.mean()
    return torch.tanh(settings.scale * at.dense.codes * at.p["W_dec"].norm(dim=1)).sum(1).mean()


def pre_activation(at: At, settings: Any) -> Tensor:
    counted_E = torch.ones_like(at.p["b_enc"]) if settings.latents == "all" else at.dead
    gap_BE = (at.p["threshold"] - at.dense.pre).relu()
    return (gap_BE * at.p["W_dec"].norm(dim=1) * counted_E).sum(1).mean()


def two_child_cosine(at: At, settings: Any) -> Tensor:
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
TERM_SETTINGS: dict[str, dict[str, Any]] = {
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
    "orthogonality": set(ENCODERS),
    "ort_sae": set(ENCODERS),
    "gated_auxiliary": {"gated"},
    "l0": {"jump_relu"},
    "pre_activation": {"jump_relu"},
    "two_child_cosine": {"two_child_topk"},
}
"""The architectures each term fits; all others refuse it."""
SAE_CHANGES: dict[str, dict[str, Any]] = {"l1_decoder_norm": {"decoder": "free"}}
"""What a term needs of an SAE's settings, beside what SAE_SETTINGS says."""
