"""AuxK of every library, written out densely as that library does it, without its weight."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _residual(at: Any) -> Tensor:
    return at.x - at.dense.codes @ at.p["W_dec"] - at.p["b_dec"]


def _top_dead(at: Any, pre_BE: Tensor, k: int, others: float) -> Tensor:
    """The k largest of each row, where those that are not dead count as `others`; zeros elsewhere."""
    masked_BE = torch.where(at.dead, pre_BE, others)
    values_BK, indices_BK = masked_BE.topk(k, dim=1)
    return torch.zeros_like(pre_BE).scatter(1, indices_BK, values_BK)


def _n_dead(at: Any) -> int:
    return 0 if at.dead is None else int(at.dead.sum())


def _deviation(rows_BM: Tensor) -> Tensor:
    return (rows_BM - rows_BM.mean(0)).square()


def dictionary_learning(at: Any, settings: Any) -> Tensor:
    if _n_dead(at) == 0:
        return at.x.new_zeros(())
    residual_BM = _residual(at).detach()
    k = min(settings.k_aux or at.x.shape[1] // 2, _n_dead(at))
    estimate_BM = _top_dead(at, at.dense.pre.relu(), k, -torch.inf) @ at.p["W_dec"]
    return (residual_BM - estimate_BM).square().sum(1).mean() / _deviation(residual_BM).sum(1).mean()


def openai(at: Any, settings: Any) -> Tensor:
    """Pre-activations of latents that are not dead count as 0; both sides of the error hold the bias."""
    dead_E = torch.zeros(at.dense.pre.shape[1], dtype=torch.bool) if at.dead is None else at.dead
    k = min(settings.k_aux or 256, at.dense.pre.shape[1])
    values_BK, indices_BK = (at.dense.pre * dead_E).topk(k, dim=1)
    codes_BE = torch.zeros_like(at.dense.pre).scatter(1, indices_BK, values_BK.relu())
    target_BM = _residual(at).detach() + at.p["b_dec"].detach()
    return (codes_BE @ at.p["W_dec"] + at.p["b_dec"] - target_BM).square().mean() / _deviation(target_BM).mean()


def sparsify(at: Any, settings: Any) -> Tensor:
    if _n_dead(at) == 0:
        return at.x.new_zeros(())
    k = settings.k_aux or at.x.shape[1] // 2
    codes_BE = _top_dead(at, at.dense.pre.relu(), min(k, _n_dead(at)), -torch.inf)
    error_BM = (codes_BE @ at.p["W_dec"] + at.p["b_dec"] - _residual(at).detach()).square()
    return min(_n_dead(at) / k, 1.0) * error_BM.sum() / _deviation(at.x).sum()


def sae_lens(at: Any, settings: Any) -> Tensor:
    if _n_dead(at) == 0:
        return at.x.new_zeros(())
    k = settings.k_aux or at.x.shape[1] // 2
    codes_BE = _top_dead(at, at.dense.pre, min(k, _n_dead(at)), -torch.inf)
    return min(_n_dead(at) / k, 1.0) * (codes_BE @ at.p["W_dec"] - _residual(at).detach()).square().sum(1).mean()


def hypothesaes(at: Any, settings: Any) -> Tensor:
    dead_E = torch.zeros(at.dense.pre.shape[1], dtype=torch.bool) if at.dead is None else at.dead
    k = settings.k_aux or 2 * 4  # dense_saes.SAE_SETTINGS: k is 4
    values_BK, indices_BK = (at.dense.pre * dead_E).topk(k, dim=1)
    codes_BE = torch.zeros_like(at.dense.pre).scatter(1, indices_BK, values_BK.relu())
    error_BM = _residual(at).detach()
    return (codes_BE @ at.p["W_dec"] - error_BM).square().mean() / _deviation(error_BM).mean()


def overcomplete(at: Any, settings: Any) -> Tensor:
    left_BE = at.dense.pre.relu() - at.dense.codes
    values_BK, indices_BK = left_BE.topk(settings.k_aux or left_BE.shape[1] // 2, dim=1)
    codes_BE = torch.zeros_like(left_BE).scatter(1, indices_BK, values_BK)
    return (_residual(at) - codes_BE @ at.p["W_dec"]).square().mean()


AUX_FORMS: dict[str, Callable[[Any, Any], Tensor]] = {
    "dictionary_learning": dictionary_learning,
    "openai": openai,
    "sparsify": sparsify,
    "sae_lens": sae_lens,
    "hypothesaes": hypothesaes,
    "overcomplete": overcomplete,
}
