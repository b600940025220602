"""Architectures: which latents are active. To add one, write a file with a class like GroupMax, and a line here."""

import torch
from torch import Tensor

from strata_sae.pipeline.saes.base import SAE, SAESettings
from strata_sae.pipeline.saes.gated import Gated
from strata_sae.pipeline.saes.groupmax import GroupMax
from strata_sae.pipeline.saes.identity import Identity
from strata_sae.pipeline.saes.jump_relu import JumpReLU
from strata_sae.pipeline.saes.relu import ReLU
from strata_sae.pipeline.saes.topk import BatchTopK, TopK
from strata_sae.pipeline.saes.two_child_topk import TwoChildTopK
from strata_sae.pipeline.sharding.ranks import ONE, Ranks

ARCHITECTURES: dict[str, type[SAE]] = {
    "relu": ReLU,
    "topk": TopK,
    "batch_topk": BatchTopK,
    "groupmax": GroupMax,
    "gated": Gated,
    "jump_relu": JumpReLU,
    "two_child_topk": TwoChildTopK,
    "identity": Identity,
}


def initial_weights(
    settings: SAESettings, d_out: int, generator: torch.Generator, d_in: int | None = None, ranks: Ranks = ONE
) -> dict[str, Tensor]:
    """Fresh float32 parameters of the architecture that the settings name, as `SAE.initial_weights` has them."""
    return ARCHITECTURES[settings.architecture].initial_weights(settings, d_out, generator, d_in, ranks)
