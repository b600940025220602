"""Architectures, one file each: who is on in a row. Adding one = a file with a class like TopK, and a line here."""

import torch
from torch import Tensor

from pipeline.saes.base import SAE, SAESettings
from pipeline.saes.batch_topk import BatchTopK
from pipeline.saes.relu import ReLU
from pipeline.saes.topk import TopK

ARCHITECTURES: dict[str, type[SAE]] = {"relu": ReLU, "topk": TopK, "batch_topk": BatchTopK}


def initial_weights(settings: SAESettings, d_model: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Fresh float32 parameters of the architecture that the settings name."""
    return ARCHITECTURES[settings.architecture].initial_weights(settings, d_model, generator)
