"""SAEs of every architecture on their way to another library, and rows like those of a residual stream."""

from typing import Any

import torch
from torch import Tensor

from strata_sae.pipeline.formats.foreign import Handed
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import SAE

WIDTH, LATENTS = 64, 256
SITE, WRITES = "blocks.8.hook_resid_post", "blocks.8.hook_mlp_out"
SETTINGS: dict[str, dict[str, Any]] = {
    "relu": {},
    "relu tied": {"tied": True},
    "relu without pre_bias": {"pre_bias": False},
    "gated": {},
    "topk": {"k": 8},
    "topk with k falling": {"k": {"start": 64, "end": 8}},
    "topk by threshold": {"k": 8, "inference": "threshold"},
    "topk without pre_bias": {"k": 8, "pre_bias": False},
    "batch_topk": {"k": 8},
    "batch_topk by k": {"k": 8, "inference": "k"},
    "jump_relu": {},
    "jump_relu with pre_bias": {"pre_bias": True},
    "groupmax": {"k": 8},
    "groupmax without pre_bias": {"k": 8, "pre_bias": False},
    "two_child_topk": {"k": 8, "d_sae": 255},
    "identity": {"d_sae": WIDTH},
}
"""Name, whose first word is the architecture -> settings beside d_sae."""
ROUTES = ("relu", "gated", "topk", "topk by threshold", "batch_topk", "jump_relu", "groupmax")
"""Those that can be transcoders."""


def rows(n: int, width: int = WIDTH, seed: int = 0) -> Tensor:
    """Rows [n, width] with a mean, a falling spectrum, two large columns, and a few rows of 30 times the norm."""
    generator = torch.Generator().manual_seed(seed)
    x_NM = torch.randn(n, width, generator=generator) * torch.linspace(3.0, 0.3, width)
    x_NM += torch.randn(width, generator=torch.Generator().manual_seed(99))
    x_NM[:, :2] += torch.tensor([40.0, -25.0])
    x_NM[::97] *= 30
    return x_NM


def weights(d_in: int, d_out: int, latents: int, *, norms: float = 0.0, seed: int = 1) -> dict[str, Tensor]:
    """Random parameters that are about as large as trained ones. norms: spread of the decoder rows' norms around 1."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    W_dec = torch.nn.functional.normalize(drawn(latents, d_out), dim=1) * torch.exp(norms * drawn(latents))[:, None]
    W_enc = (W_dec if d_in == d_out else drawn(latents, d_in) / d_in**0.5) + 0.05 * drawn(latents, d_in)
    b_dec = rows(256, d_out).mean(0)
    mean = rows(256, d_in).mean(0)
    b_enc = 0.3 * drawn(latents) if d_in == d_out else -W_enc @ mean
    vectors = {"b_gate": b_enc, "b_mag": b_enc + 0.1, "r_mag": 0.2 * drawn(latents)}
    return {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec, **vectors}


def made(name: str, d_in: int = WIDTH, d_out: int = WIDTH, **changes: Any) -> SAE:
    """An SAE of SETTINGS, float32."""
    architecture = name.partition(" ")[0]
    kind = ARCHITECTURES[architecture]
    settings = kind.Settings(**{"d_sae": LATENTS, **SETTINGS[name], **changes})
    found = weights(d_in, d_out, settings.d_sae)
    if not settings.pre_bias:
        found["b_enc"] = found["b_enc"] - found["W_enc"] @ rows(256, d_in).mean(0)
    if architecture == "jump_relu":
        found["threshold"] = 1.0 + torch.rand(settings.d_sae, generator=torch.Generator().manual_seed(2))
    elif architecture in ("topk", "batch_topk"):
        found["threshold"] = torch.tensor(2.5137, dtype=torch.float64)
    return kind(settings, d_out, found, d_in)


def transcoder(name: str, d_out: int = WIDTH, **changes: Any) -> SAE:
    """The same, from rows of one site to those of another."""
    return made(name, WIDTH, d_out, **{"pre_bias": False, **changes})


def handed(sae: SAE, writes: str = SITE, **provenance: Any) -> Handed:
    """An SAE as a writer takes it."""
    return Handed(
        name="any@somewhere",
        sae=sae,
        site=SITE,
        writes=writes,
        model="some/model",
        context_tokens=128,
        prepends_bos=True,
        dataset="some text",
        provenance={"store_ids": {SITE: "5b" * 32}, **provenance},
    )
