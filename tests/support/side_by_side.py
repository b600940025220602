"""One SAE held by ranks beside the same SAE in one process: what differs after some updates, and what ranks sent."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from strata_sae.pipeline.config.training import TrainingSettings
from strata_sae.pipeline.config.variants import Variant
from strata_sae.pipeline.kernels import selection
from strata_sae.pipeline.kernels.codes import Codes, SparseCodes
from strata_sae.pipeline.saes import initial_weights
from strata_sae.pipeline.saes.base import Workspace
from strata_sae.pipeline.sharding import cut
from strata_sae.pipeline.sharding.ranks import ONE, Ranks, is_of_latents
from strata_sae.pipeline.trainer.trainee import Trainee

M, E, K, B, N_STEPS = 24, 250, 6, 64, 20
RECONSTRUCTION: dict[str, Any] = {"reconstruction": {}}
AUX = {**RECONSTRUCTION, "aux_k": {"k_aux": 8, "weight": 0.5}}
VARIANTS: dict[str, dict[str, Any]] = {
    "topk": {"sae": {"architecture": "topk", "k": K}, "objective": AUX},
    "topk annealed": {"sae": {"architecture": "topk", "k": {"start": 20, "end": 4}}, "objective": RECONSTRUCTION},
    "topk dense": {"sae": {"architecture": "topk", "k": 100, "decoder": "free"}, "objective": RECONSTRUCTION},
    "topk openai": {
        "sae": {"architecture": "topk", "k": K},
        "objective": RECONSTRUCTION | {"aux_k": {"form": "openai"}},
    },
    "topk sae_lens": {
        "sae": {"architecture": "topk", "k": K},
        "objective": RECONSTRUCTION | {"aux_k": {"form": "sae_lens", "weight": 0.1}},
    },
    "topk overcomplete": {
        "sae": {"architecture": "topk", "k": K},
        "objective": RECONSTRUCTION | {"aux_k": {"form": "overcomplete", "k_aux": 20}},
    },
    "topk plain": {"sae": {"architecture": "topk", "k": K}, "objective": RECONSTRUCTION},
    "batch_topk plain": {"sae": {"architecture": "batch_topk", "k": K}, "objective": RECONSTRUCTION},
    "batch_topk": {"sae": {"architecture": "batch_topk", "k": K}, "objective": AUX},
    "relu": {"sae": {"architecture": "relu"}, "objective": RECONSTRUCTION | {"l1": {"weight": 0.02}}},
    "relu tied": {
        "sae": {"architecture": "relu", "tied": True},
        "objective": RECONSTRUCTION | {"lp": {"weight": 0.02, "p": 0.7, "epsilon": 0.01}},
    },
    "relu free": {
        "sae": {"architecture": "relu", "decoder": "free"},
        "objective": RECONSTRUCTION | {"l1_decoder_norm": {"weight": 0.02}},
    },
    "jump_relu": {
        "sae": {"architecture": "jump_relu", "bandwidth": 0.1, "pre_bias": True},
        "objective": RECONSTRUCTION | {"l0": {"target": 12.0}, "pre_activation": {"weight": 0.01}},
    },
    "jump_relu tanh": {
        "sae": {"architecture": "jump_relu", "bandwidth": 0.1, "decoder": "free"},
        "objective": RECONSTRUCTION | {"l0": {"kind": "tanh", "weight": 0.01}},
    },
}
"""Every architecture and term that ranks can hold."""


@dataclass
class Sides:
    """What a rank found."""

    differing: int
    """Places of its codes that are active on one side alone, and latents whose dead clocks differ (count)."""
    selected: int
    dead: int
    """Latents that were dead at the end (count, of one process)."""
    apart: float
    """Largest |difference| / |movement| of a parameter's rows that this rank holds."""
    losses: float
    """Largest relative difference of a loss, or of a gradient norm."""
    b_dec: Tensor
    sent_bytes: int
    rows_again: int
    threshold: tuple[float, float]


def trainee_of(name: str, ranks: Ranks, seed: int = 0) -> Trainee:
    """A trainee of one of VARIANTS, or of the part of a rank, at the start."""
    changed = VARIANTS[name]
    variant = Variant.model_validate(changed | {"sae": {"d_sae": E, **changed["sae"]}})
    settings = TrainingSettings(
        n_steps=N_STEPS, warmup_steps=0, batch_size=B, dead_after_rows=3 * B, learning_rate=3e-3
    )
    weights = initial_weights(variant.sae, M, torch.Generator().manual_seed(seed), None, ranks)
    return Trainee(variant, variant.resolved(settings), weights, Workspace(), ranks=ranks)


def batches() -> list[Tensor]:
    """Sparse sums of directions."""
    generator = torch.Generator().manual_seed(7)
    directions = torch.randn(2 * M, M, generator=generator) / M**0.5
    on = (torch.rand(N_STEPS, B, 2 * M, generator=generator) < 0.1).float()
    return list((on * torch.rand(on.shape, generator=generator)) @ directions)


def held(tensor: Tensor, name: str, ranks: Ranks) -> Tensor:
    """The rows of a rank, of a tensor of the whole SAE."""
    some = ranks.latents(E)
    return tensor[some.start : some.stop] if is_of_latents(name) else tensor


def active(codes: Codes) -> Tensor:
    """Where the codes have entries other than 0."""
    return codes.to_dense() != 0


def train_beside(name: str, ranks: Ranks, *, monitored: bool = True) -> Sides:
    """Make every update on both sides, and compare. monitored: whether every fifth is logged."""
    whole, part = trainee_of(name, ONE), trainee_of(name, ranks)
    start = {key: tensor.clone() for key, tensor in whole.sae.parameters().items()}
    differing = selected = 0
    losses = 0.0
    for number, x_BM in enumerate(batches()):
        is_line = monitored and number % 5 == 0
        one, own = whole.update(x_BM, monitored=is_line), part.update(x_BM, monitored=is_line)
        assert one is not None
        assert own is not None
        wanted = held(active(one.result.codes).T, "W_enc", ranks).T
        differing += int((wanted != active(own.result.codes)).sum())
        selected += int(wanted.sum())
        for expected, found in (
            (float(one.result.loss), float(own.result.loss)),
            (one.gradient_norm, own.gradient_norm),
            *((float(value), float(own.result.monitors[key])) for key, value in one.result.monitors.items()),
        ):
            losses = max(losses, abs(found - expected) / max(abs(expected), 1e-6))
    apart = [
        float((held(tensor, key, ranks) - part.sae.parameters()[key]).norm() / (tensor - start[key]).norm())
        for key, tensor in whole.sae.parameters().items()
    ]
    clocks = held(whole.dead_clock.rows_since_active, "W_enc", ranks), part.dead_clock.rows_since_active
    differing += int((clocks[0] != clocks[1]).sum())
    return Sides(
        differing,
        selected,
        int(whole.dead_clock.dead().sum()),
        max(apart),
        losses,
        part.sae.b_dec.clone(),
        ranks.sent.bytes_of_rank(ranks.n),
        ranks.sent.rows_again,
        (whole.threshold.value(), part.threshold.value()),
    )


def entries(codes: Codes) -> Tensor:
    """Where the codes have entries, also of 0."""
    assert isinstance(codes, SparseCodes)
    found_BE = torch.zeros(codes.batch_size, codes.n_latents, dtype=torch.bool)
    found_BE[codes.rows_P.long(), codes.indices_P.long()] = True
    return found_BE


def coarse_cut(ranks: Ranks, k: int = 8) -> tuple[int, int]:
    """This rank's entries that differ from one process' where many values are equal, and how many there are.

    Values are multiples of a quarter, of 1, and of 10, N_STEPS times each: by rows and over the batch.
    """
    differing = n_entries = 0
    generator = torch.Generator().manual_seed(0)
    some = ranks.latents(E)
    for quantum in (0.25, 1.0, 10.0):
        for _ in range(N_STEPS):
            pre_BE = (torch.randn(B, E, generator=generator) / quantum).round() * quantum + 0.0
            own_BE = pre_BE[:, some.start : some.stop].contiguous()
            sides = (
                (selection.row_topk(pre_BE, k, 1.0), cut.row_topk(ranks, own_BE, k, E, 1.0)),
                (selection.batch_topk(pre_BE, k * B, 1.0)[0], cut.batch_topk(ranks, own_BE, k * B, E, 1.0)[0]),
            )
            for one, own in sides:
                differing += int((entries(one)[:, some.start : some.stop] != entries(own)).sum())
                n_entries += int(entries(own).sum())
    return differing, n_entries


def bytes_of_20_updates(name: str, n: int, rows_again: int) -> int:
    """The formula: what a rank sends in the updates of a case, none of them logged. n: ranks.

    Candidates of each row 4 B k' (n - 1), and k of the rows that are offered again; the sums over ranks of the
    reconstruction 4 B M, of b_dec's gradient 4 M, of a squared norm for each parameter 8, of the loss of terms over
    latents 4, and each row's smallest value 4 B: those 2 (n - 1) / n times.
    """
    sae, objective = VARIANTS[name]["sae"], VARIANTS[name]["objective"]
    n_parameters = 3 if sae.get("tied") else 5 if sae["architecture"] == "jump_relu" else 4
    reduced = 4 * B * M + 8 * n_parameters + 4 * B
    reduced += 0 if sae["architecture"] == "jump_relu" and not sae.get("pre_bias") else 4 * M
    reduced += 4 if objective.keys() & {"l1", "lp", "l1_decoder_norm", "pre_activation"} else 0
    if "l0" in objective:
        reduced += 4 if objective["l0"].get("kind") == "tanh" else 8 * B
    gathered = 4 * B * cut.offered(sae["k"], n) if sae["architecture"] == "topk" else 0
    if sae["architecture"] == "batch_topk":  # counts of each of four bytes, and ties of each row
        reduced, gathered = reduced + 4 * 2048, 4 * (B + 1)
    return (n - 1) * (N_STEPS * gathered + 4 * rows_again * sae.get("k", 0)) + 2 * (n - 1) * N_STEPS * reduced // n
