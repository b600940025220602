"""Tiny models as users load them, and SAEs of theirs that no file holds."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from strata_sae.pipeline.formats.foreign import Source
from strata_sae.pipeline.runs.loaded import ForeignSAE
from strata_sae.pipeline.saes import ARCHITECTURES, initial_weights
from support.judged_run import identity, rough

SITE = "blocks.1.hook_resid_post"
ModelOf = Callable[..., Any]


def tokens(n_sequences: int = 3, n_tokens: int = 9, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 300, (n_sequences, n_tokens), generator=generator)


def foreign(sae: Any, site: str | None = SITE, writes: str | None = None) -> ForeignSAE:
    return ForeignSAE(sae, Source("made up", "an SAE of these tests", {}, site=site, writes=writes))


def relu(weights: dict[str, Tensor], site: str | None = SITE, writes: str | None = None) -> ForeignSAE:
    settings = ARCHITECTURES["relu"].Settings(d_sae=len(weights["W_dec"]), pre_bias=writes is None)
    (d_sae, d_in), d_out = weights["W_enc"].shape, weights["W_dec"].shape[1]
    assert d_sae == settings.d_sae
    return foreign(ARCHITECTURES["relu"](settings, d_out, weights, d_in), site, writes)


def same(width: int = 32, site: str = SITE) -> ForeignSAE:
    """xhat is x, exactly."""
    return relu(identity(width), site)


def bad(width: int = 32, site: str = SITE) -> ForeignSAE:
    """A ReLU SAE of random directions, with a bias that is not 0: about half of its latents are active."""
    weights = rough(width)
    return relu({**weights, "b_dec": torch.linspace(-1, 1, width)}, site)


def sparse(width: int = 32, k: int = 4, site: str = SITE) -> ForeignSAE:
    """A TopK SAE of few active latents, whose codes are entries."""
    settings = ARCHITECTURES["topk"].Settings(d_sae=128, k=k)
    weights = initial_weights(settings, width, torch.Generator().manual_seed(5))
    return foreign(ARCHITECTURES["topk"](settings, width, weights), site)


def rows_of(model: Any, ids_BS: Tensor, path: str) -> Tensor:
    """What a module gave in a plain pass, by a hook of these tests' own."""
    found: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_hook(
        lambda module, args, output: found.append(output if isinstance(output, Tensor) else output[0])
    )
    with torch.no_grad():
        model(input_ids=ids_BS)
    handle.remove()
    return found[0]


def n_hooks(model: Any) -> int:
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in model.modules())
