"""One small SAE of each architecture, and rows for it."""

import torch
from torch import Tensor

from strata_sae.pipeline.saes import ARCHITECTURES, initial_weights
from strata_sae.pipeline.saes.base import SAE
from support.dense_saes import SAE_SETTINGS

D_MODEL, D_SAE = 10, 60


def make_sae(architecture: str, **changes) -> SAE:
    """An SAE with parameters of its own in every place, and the threshold that inference may need."""
    settings = ARCHITECTURES[architecture].Settings(**{"d_sae": D_SAE, **SAE_SETTINGS[architecture], **changes})
    weights = initial_weights(settings, D_MODEL, torch.Generator().manual_seed(0))
    sae = ARCHITECTURES[architecture](settings, D_MODEL, {name: w.double() for name, w in weights.items()})
    generator = torch.Generator().manual_seed(1)
    for name, parameter in sae.parameters().items():
        if sae.learns and not name.startswith("W"):
            scale = 1.0 if name == "b_dec" else 0.1
            parameter += scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    sae.constrain()
    if sae.has_threshold:
        sae.threshold = torch.tensor(0.8, dtype=torch.float64)
    return sae


def rows(n: int = 32) -> Tensor:
    return torch.randn(n, D_MODEL, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
