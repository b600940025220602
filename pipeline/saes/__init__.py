"""Architectures, one file each: who is on in a row. Adding one = a file with a class like TopK, and a line here."""

import torch
from torch import Tensor

from pipeline.saes.base import SAE, SAESettings
from pipeline.saes.batch_topk import BatchTopK
from pipeline.saes.gated import Gated
from pipeline.saes.groupmax import GroupMax
from pipeline.saes.identity import Identity
from pipeline.saes.jump_relu import JumpReLU
from pipeline.saes.relu import ReLU
from pipeline.saes.topk import TopK
from pipeline.saes.two_child_topk import TwoChildTopK

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
    settings: SAESettings, d_model: int, generator: torch.Generator, d_in: int | None = None
) -> dict[str, Tensor]:
    """Fresh float32 parameters of the architecture that the settings name. d_in: as `SAE.shapes` says."""
    return ARCHITECTURES[settings.architecture].initial_weights(settings, d_model, generator, d_in)
