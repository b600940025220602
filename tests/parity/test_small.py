"""Our update against its source's, written out in autograd, in lockstep; tests/peers/parity runs the sources."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.saes import ARCHITECTURES, initial_weights
from support.lockstep import Weights, largest, lockstep, our_trainee, planted_rows

D_MODEL, D_SAE, K, BATCH, STEPS, RATE = 12, 48, 4, 32, 40, 1e-3
DEAD_AFTER = 2 * BATCH


def errors(x_BM: Tensor, codes_BE: Tensor, p: Weights) -> Tensor:
    return x_BM - codes_BE @ p["W_dec"] - p["b_dec"]


def sse(error_BM: Tensor) -> Tensor:
    return error_BM.square().sum(1).mean()


def pre(x_BM: Tensor, p: Weights) -> Tensor:
    return (x_BM - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]


class Source(NamedTuple):
    """A source's loss, given rows, parameters, step and who is dead; how it steps; and our settings for it."""

    loss: Callable[[Tensor, Weights, int, Tensor], tuple[Tensor, Tensor]]
    """Returns: the loss, and the codes."""
    sae: dict[str, Any]
    objective: dict[str, Any]
    beta1: float = 0.9
    clip: float | None = None


def topk(x_BM: Tensor, p: Weights, step: int, dead_E: Tensor) -> tuple[Tensor, Tensor]:
    """Gao et al. 2024 as dictionary_learning has it: AuxK without bias, over the residual's variance."""
    acts_BE = pre(x_BM, p).relu()
    codes_BE = acts_BE * torch.zeros_like(acts_BE).scatter(1, acts_BE.topk(K).indices, 1.0)
    error_BM = errors(x_BM, codes_BE, p)
    if not dead_E.any():
        return sse(error_BM), codes_BE
    top = acts_BE.masked_fill(~dead_E, -torch.inf).topk(min(D_MODEL // 2, int(dead_E.sum())))
    aux_BE = torch.zeros_like(acts_BE).scatter(1, top.indices, top.values)
    residual_BM = error_BM.detach()
    variance = sse(residual_BM - residual_BM.mean(0))
    return sse(error_BM) + sse(residual_BM - aux_BE @ p["W_dec"]) / variance / 32, codes_BE


def matryoshka(x_BM: Tensor, p: Weights, step: int, dead_E: Tensor) -> tuple[Tensor, Tensor]:
    """Bussmann et al. 2025: the mean over prefixes, codes by BatchTopK."""
    acts_BE = pre(x_BM, p).relu()
    codes_BE = acts_BE * (acts_BE >= acts_BE.flatten().topk(K * BATCH).values.min())
    prefixes = [codes_BE * (torch.arange(D_SAE) < end) for end in (12, 24, D_SAE)]
    return torch.stack([sse(errors(x_BM, prefix_BE, p)) for prefix_BE in prefixes]).mean(), codes_BE


def april(x_BM: Tensor, p: Weights, step: int, dead_E: Tensor) -> tuple[Tensor, Tensor]:
    """Anthropic, April 2024: codes weighed by the norms of a free decoder; warmed up over 10 steps."""
    codes_BE = pre(x_BM, p).relu()
    penalty = (codes_BE * p["W_dec"].norm(dim=1)).sum(1).mean()
    return sse(errors(x_BM, codes_BE, p)) + 0.1 * min(step / 10, 1) * penalty, codes_BE


def gated(x_BM: Tensor, p: Weights, step: int, dead_E: Tensor) -> tuple[Tensor, Tensor]:
    """Rajamanoharan et al. 2024, Gated SAEs: the gate reconstructs by a constant decoder, and is penalised."""
    product_BE = (x_BM - p["b_dec"]) @ p["W_enc"].T
    gate_BE = product_BE + p["b_gate"]
    codes_BE = (gate_BE > 0) * (p["r_mag"].exp() * product_BE + p["b_mag"]).relu()
    constant = {name: tensor.detach() for name, tensor in p.items()}
    auxiliary = sse(errors(x_BM, gate_BE.relu(), constant))
    return sse(errors(x_BM, codes_BE, p)) + 0.1 * gate_BE.relu().sum(1).mean() + auxiliary, codes_BE


def jump_relu(x_BM: Tensor, p: Weights, step: int, dead_E: Tensor) -> tuple[Tensor, Tensor]:
    """Rajamanoharan et al. 2024, Jumping Ahead: the estimator as what has that gradient; mean l0 to a target."""
    pre_BE, width = x_BM @ p["W_enc"].T + p["b_enc"], 0.05
    on_BE = pre_BE > p["threshold"]
    kernel_BE = ((pre_BE - p["threshold"]).abs() < width / 2) / width
    moving_BE = -kernel_BE * p["threshold"]
    step_BE = on_BE + moving_BE - moving_BE.detach()
    jump_BE = p["threshold"].detach() * (moving_BE - moving_BE.detach())
    codes_BE = pre_BE * on_BE + jump_BE
    return sse(errors(x_BM, codes_BE, p)) + (step_BE.sum(1).mean() / 10 - 1) ** 2, codes_BE


SELECTED = {"reconstruction": {}, "aux_k": {}}
SOURCES = {
    "topk": Source(topk, {"architecture": "topk", "k": K}, SELECTED),
    "topk_clipped": Source(topk, {"architecture": "topk", "k": K}, SELECTED, clip=0.05),
    "matryoshka": Source(
        matryoshka, {"architecture": "batch_topk", "k": K}, {"prefix_reconstruction": {"fractions": [0.25, 0.5, 1.0]}}
    ),
    "april": Source(
        april,
        {"architecture": "relu", "decoder": "free"},
        {"reconstruction": {}, "l1_decoder_norm": {"weight": {"start": 0.0, "end": 0.1, "finish": 10 / STEPS}}},
    ),
    "gated": Source(
        gated,
        {"architecture": "gated"},
        {"reconstruction": {}, "l1": {"weight": 0.1}, "gated_auxiliary": {}},
        beta1=0.0,
    ),
    "jump_relu": Source(
        jump_relu,
        {"architecture": "jump_relu", "bandwidth": 0.05, "initial_threshold": 0.2},
        {"reconstruction": {}, "l0": {"target": 10.0}},
        beta1=0.0,
    ),
}


class Dense:
    """Autograd, torch's Adam, and a decoder held at norm 1 if its gradient is projected."""

    def __init__(self, source: Source, weights: Weights, rate: float = RATE):
        self.source = source
        self.parameters = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
        self.adam = torch.optim.Adam(self.parameters.values(), lr=rate, betas=(source.beta1, 0.999))
        self.silent_E = torch.zeros(D_SAE, dtype=torch.int64)

    def update(self, step: int, x_BM: Tensor) -> float:
        with torch.no_grad():
            _, codes_BE = self.source.loss(x_BM, self.parameters, step, self.silent_E < 0)
        self.silent_E = (self.silent_E + len(x_BM)) * ~(codes_BE > 0).any(0)
        self.adam.zero_grad()
        loss, _ = self.source.loss(x_BM, self.parameters, step, self.silent_E >= DEAD_AFTER)
        loss.backward()
        W_dec, unit = self.parameters["W_dec"], self.source.sae.get("decoder") != "free"
        with torch.no_grad():
            if unit:
                direction_EM = W_dec / (W_dec.norm(dim=1, keepdim=True) + 1e-6)
                W_dec.grad -= (W_dec.grad * direction_EM).sum(1, keepdim=True) * direction_EM
        if self.source.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.source.clip)
        self.adam.step()
        with torch.no_grad():
            W_dec /= W_dec.norm(dim=1, keepdim=True) if unit else 1.0
        return loss.item()

    def weights(self) -> Weights:
        return {name: parameter.detach() for name, parameter in self.parameters.items()}


def gap(source: Source, n_steps: int = STEPS, rate: float = RATE) -> float:
    """The largest difference of a lockstep from random weights; `rate` is the dense side's."""
    settings = ARCHITECTURES[source.sae["architecture"]].Settings(**source.sae, d_sae=D_SAE)
    generator = torch.Generator().manual_seed(0)
    weights = {name: w.double() for name, w in initial_weights(settings, D_MODEL, generator).items()}
    variant = {"sae": {**source.sae, "d_sae": D_SAE}, "objective": source.objective}
    training = {"learning_rate": RATE, "beta1": source.beta1, "clip_norm": source.clip}
    ours = our_trainee(weights, n_steps=STEPS, variant=variant, dead_after_rows=DEAD_AFTER, **training)
    return largest(lockstep(ours, Dense(source, weights, rate), planted_rows(n_steps, BATCH, D_MODEL)))


@pytest.mark.parametrize("name", SOURCES)
def test_our_update_is_the_sources(name: str) -> None:
    # The fused clip's coefficient is a float32, whatever the gradients are.
    assert gap(SOURCES[name]) < (1e-6 if SOURCES[name].clip else 1e-12)


@pytest.mark.parametrize("name", SOURCES)
def test_a_rate_off_by_a_thousandth_is_seen(name: str) -> None:
    assert gap(SOURCES[name], n_steps=3, rate=RATE * 1.001) > 2e-6


def test_a_dead_latent_takes_part() -> None:
    """Without AuxK the lockstep of `topk` parts: some latents were dead."""
    assert gap(SOURCES["topk"]._replace(objective={"reconstruction": {}})) > 1e-6
