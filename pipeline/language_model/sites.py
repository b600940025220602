"""Site names: from `blocks.{i}.hook_resid_post` and the like to a module of a Hugging Face model, and a side of it."""

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.transformers_library import CausalModel


@dataclass(frozen=True)
class Part:
    """One of the three parts of a fused query-key-value projection's output."""

    number: int
    """0: queries, 1: keys, 2: values."""
    groups: int
    """1: the three lie one after another. The number of heads: they do so within each head."""

    def read(self, fused: Tensor) -> Tensor:
        """[..., W] of [..., 3 W], heads one after another."""
        return fused.unflatten(-1, (self.groups, 3, -1))[..., self.number, :].flatten(-2)

    def written(self, fused: Tensor, part: Tensor) -> Tensor:
        """A copy of [..., 3 W] with this part replaced."""
        copied = fused.clone()
        copied.unflatten(-1, (self.groups, 3, -1))[..., self.number, :] = part.unflatten(-1, (self.groups, -1))
        return copied


@dataclass(frozen=True)
class Site:
    """One place in a model: what goes into a module, or what comes out of it, or a part of that."""

    name: str
    module_path: str
    side: Literal["input", "output"]
    part: Part | None = None
    named_in: str = "store.sites"
    """Where the user wrote the name: errors begin with it."""

    @property
    def place(self) -> str:
        """What a plan records: `output of model.layers.0.mlp`."""
        of_heads = f" of each of {self.part.groups} heads" if self.part and self.part.groups > 1 else ""
        part = f", part {self.part.number + 1} of 3{of_heads}" if self.part else ""
        return f"{self.side} of {self.module_path}{part}"


@dataclass(frozen=True)
class Family:
    """Where the models of one `model_type` keep their parts. Paths below `layers` are relative to one layer."""

    layers: str
    attn_out: str
    """Module whose output is added to the residual stream after attention."""
    mlp_out: str
    """Module whose output is added to the residual stream after the MLP."""
    mlp_down: str
    """The MLP's down projection; its input is `mlp.hook_post`."""
    attn_down: str = "self_attn.o_proj"
    """The attention's output projection; its input, all heads one after another, is `attn.hook_z`."""
    qkv: tuple[str, str, str] | str = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    """The projections whose outputs are `attn.hook_q`, `hook_k` and `hook_v`; or the one that gives all three."""
    fused_by_head: bool = False
    """Of one projection: each head's query, key and value lie side by side."""


_LLAMA = Family("model.layers", "self_attn", "mlp", "mlp.down_proj")
# Gemma 2 and 3 normalise the outputs of attention and MLP before adding them; TransformerLens hooks after these norms.
_GEMMA2 = Family("model.layers", "post_attention_layernorm", "post_feedforward_layernorm", "mlp.down_proj")

FAMILIES: dict[str, Family] = {
    "gpt2": Family("transformer.h", "attn", "mlp", "mlp.c_proj", "attn.c_proj", "attn.c_attn"),
    "gpt_neox": Family(
        "gpt_neox.layers",
        "attention",
        "mlp",
        "mlp.dense_4h_to_h",
        "attention.dense",
        "attention.query_key_value",
        fused_by_head=True,
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "gemma3": Family("model.language_model.layers", _GEMMA2.attn_out, _GEMMA2.mlp_out, _GEMMA2.mlp_down),
    "opt": Family("model.decoder.layers", "self_attn", "fc2", "fc2", "self_attn.out_proj"),
}

_BLOCK_SITE = re.compile(r"blocks\.(\d+)\.(.+)")


_Place = tuple[str, Literal["input", "output"], Part | None]


def _in_layer(family: Family, n_heads: int) -> dict[str, _Place]:
    """Site in a layer -> path of its module below the layer, side, part.

    Queries, keys and values are the projections' outputs, bias included: before rotary embeddings and before norms of
    queries and keys, as in TransformerLens. Keys and values are narrower where several heads share them.
    """
    places: dict[str, _Place] = {
        "hook_resid_pre": ("", "input", None),
        "hook_resid_post": ("", "output", None),
        "hook_attn_out": (family.attn_out, "output", None),
        "hook_mlp_out": (family.mlp_out, "output", None),
        "mlp.hook_post": (family.mlp_down, "input", None),
        "attn.hook_z": (family.attn_down, "input", None),
    }
    for number, name in enumerate(("attn.hook_q", "attn.hook_k", "attn.hook_v")):
        if isinstance(family.qkv, str):
            places[name] = (family.qkv, "output", Part(number, n_heads if family.fused_by_head else 1))
        else:
            places[name] = (family.qkv[number], "output", None)
    return places


def site_of(model: CausalModel, name: str, named_in: str = "store.sites") -> Site:
    """The site called `name` of a built model. Raises: ConfigError, listing its sites, if there is no such site."""
    module_paths = [path for path, _ in model.named_modules() if path]
    n_heads = getattr(model.config.get_text_config(), "num_attention_heads", 1)
    return resolve(name, model.config.model_type, module_paths, n_heads, named_in)


def resolve(
    name: str, model_type: str, module_paths: Collection[str], n_heads: int, named_in: str = "store.sites"
) -> Site:
    """The site called `name` in a model with these modules and this number of attention heads.

    named_in: where the user wrote the name.
    Raises: ConfigError, listing the sites this model has, if there is no such site.
    """
    block = _BLOCK_SITE.fullmatch(name)
    if block and model_type in FAMILIES:
        family = FAMILIES[model_type]
        n_layers = sum(re.fullmatch(re.escape(family.layers) + r"\.\d+", path) is not None for path in module_paths)
        layer = int(block[1])
        places = _in_layer(family, n_heads)
        if block[2] in places:
            if layer >= n_layers:
                raise ConfigError(
                    f"{named_in}: {name!r}: layer {layer} does not exist; this {model_type} model has {n_layers} "
                    f"layers, so blocks.0 to blocks.{n_layers - 1}"
                )
            inner, side, part = places[block[2]]
            return Site(name, f"{family.layers}.{layer}" + (f".{inner}" if inner else ""), side, part, named_in)
    if name in module_paths:
        return Site(name, name, "output", named_in=named_in)
    stem = name.removesuffix(".input")
    if stem != name and stem in module_paths:
        return Site(name, stem, "input", named_in=named_in)
    raise _unknown(name, model_type, module_paths, named_in)


def _unknown(name: str, model_type: str, module_paths: Collection[str], named_in: str) -> ConfigError:
    block = _BLOCK_SITE.fullmatch(name)
    if model_type in FAMILIES:
        kinds = list(_in_layer(FAMILIES[model_type], n_heads=1))
        allowed = "this model has " + ", ".join(f"blocks.{{i}}.{kind}" for kind in kinds)
        known = [*module_paths, *(f"blocks.{block[1] if block else 0}.{kind}" for kind in kinds)]
    else:
        allowed = (
            f"names like blocks.0.hook_resid_post are known for {', '.join(sorted(FAMILIES))}, "
            f"not for {model_type!r}, where a site is a module's path"
        )
        known = list(module_paths)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
    hint = f"; nearest name: {nearest[0]}" if nearest else ""
    return ConfigError(
        f"{named_in}: there is no site {name!r}; {allowed}, or any module's path (its output; "
        f"`<path>.input` for its input){hint}"
    )
