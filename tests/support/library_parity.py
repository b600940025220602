"""Codes and reconstructions of an SAE of ours beside those of another library's, on equal rows."""

from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.saes.base import SAE
from strata_sae.pipeline.saes.groupmax import GroupMax
from strata_sae.pipeline.saes.topk import Ranked, k_at


class Agreement(NamedTuple):
    """How far two SAEs are from each other."""

    codes: float
    """Largest difference of a code, divided by the largest code; entries that are near a cut are left out."""
    flips: int
    """Codes that one has and the other has not, though they are not near a cut."""
    near: int
    """Codes that one has and the other has not, near a cut."""
    xhat: float
    """Largest difference of a reconstruction, divided by its largest number."""


NEAR = 1e-6
"""How near a cut float32 may decide either way, as a share of the row's largest pre-activation."""


def agreement(ours: SAE, x_BM: Tensor, theirs_BE: Tensor, theirs_BM: Tensor) -> Agreement:
    """theirs_BE: the other library's codes of x_BM; theirs_BM: what it makes of them."""
    codes = ours.encode_inference(x_BM)
    ours_BE, ours_BM = codes.to_dense(), ours.decode(codes)
    differs_BE = (ours_BE != 0) != (theirs_BE != 0)
    near_BE = _near_a_cut(ours, x_BM)
    apart = (ours_BE - theirs_BE).abs().masked_fill(differs_BE & near_BE, 0.0)
    same_B = ~(differs_BE & near_BE).any(dim=1)
    return Agreement(
        codes=float(apart.max() / ours_BE.abs().max()),
        flips=int((differs_BE & ~near_BE).sum()),
        near=int((differs_BE & near_BE).sum()),
        xhat=float((ours_BM - theirs_BM)[same_B].abs().max() / ours_BM.abs().max()),
    )


def _near_a_cut(sae: SAE, x_BM: Tensor) -> Tensor:
    """Where the exact pre-activation is as near to what decides as float32 rounds: bool [B, E]."""
    x0_BM = x_BM.double() - (sae.b_dec.double() if sae.settings.pre_bias else 0.0)
    bias_E = sae.parameters().get("b_gate", getattr(sae, "b_enc", None))
    assert bias_E is not None
    pre_BE = x0_BM @ sae.W_enc.double().T + bias_E.double()
    tolerance_B1 = NEAR * pre_BE.abs().amax(dim=1, keepdim=True)
    if isinstance(sae, GroupMax):
        groups = pre_BE.unflatten(1, (sae.settings.k, -1))
        first, second = groups.topk(2, dim=2).values.unbind(dim=2)
        near = ((first - second).abs() <= tolerance_B1) | (first.abs() <= tolerance_B1)
        return near.any(dim=1, keepdim=True).expand_as(pre_BE)
    if isinstance(sae, Ranked) and sae.settings.inference == "k":
        k = k_at(sae.settings.k, 1.0)
        last, next_ = pre_BE.topk(k + 1, dim=1).values[:, -2:].unbind(dim=1)
        return ((last - next_)[:, None] <= tolerance_B1) | (pre_BE.abs() <= tolerance_B1)
    threshold = torch.zeros(()) if sae.threshold is None else sae.threshold.double()
    near_BE = (pre_BE - threshold).abs() <= tolerance_B1
    if "b_mag" in sae.parameters():
        own = sae.parameters()
        magnitude_BE = (x0_BM @ sae.W_enc.double().T) * own["r_mag"].double().exp() + own["b_mag"].double()
        near_BE |= magnitude_BE.abs() <= tolerance_B1
    return near_BE
