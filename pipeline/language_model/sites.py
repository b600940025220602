"""Site names: from `blocks.{i}.hook_resid_post` and the like to a module of a Hugging Face model, and a side of it."""

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from strata_sae.pipeline.errors import ConfigError


@dataclass(frozen=True)
class Site:
    """One place in a model: what goes into a module, or what comes out of it."""

    name: str
    module_path: str
    side: Literal["input", "output"]


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


_LLAMA = Family("model.layers", "self_attn", "mlp", "mlp.down_proj")
# Gemma 2 and 3 normalise the outputs of attention and MLP before adding them; TransformerLens hooks after these norms.
_GEMMA2 = Family("model.layers", "post_attention_layernorm", "post_feedforward_layernorm", "mlp.down_proj")

FAMILIES: dict[str, Family] = {
    "gpt2": Family("transformer.h", "attn", "mlp", "mlp.c_proj"),
    "gpt_neox": Family("gpt_neox.layers", "attention", "mlp", "mlp.dense_4h_to_h"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "gemma3": Family("model.language_model.layers", _GEMMA2.attn_out, _GEMMA2.mlp_out, _GEMMA2.mlp_down),
    "opt": Family("model.decoder.layers", "self_attn", "fc2", "fc2"),
}

_BLOCK_SITE = re.compile(r"blocks\.(\d+)\.(.+)")


def _in_layer(family: Family) -> dict[str, tuple[str, Literal["input", "output"]]]:
    return {
        "hook_resid_pre": ("", "input"),
        "hook_resid_post": ("", "output"),
        "hook_attn_out": (family.attn_out, "output"),
        "hook_mlp_out": (family.mlp_out, "output"),
        "mlp.hook_post": (family.mlp_down, "input"),
    }


def resolve(name: str, model_type: str, module_paths: Collection[str]) -> Site:
    """The site called `name` in a model with these modules.

    Raises: ConfigError, listing the sites this model has, if there is no such site.
    """
    block = _BLOCK_SITE.fullmatch(name)
    if block and model_type in FAMILIES:
        family = FAMILIES[model_type]
        n_layers = sum(re.fullmatch(re.escape(family.layers) + r"\.\d+", path) is not None for path in module_paths)
        layer = int(block[1])
        if block[2] in _in_layer(family):
            if layer >= n_layers:
                raise ConfigError(
                    f"store.sites: {name!r}: layer {layer} does not exist; this {model_type} model has {n_layers} "
                    f"layers, so blocks.0 to blocks.{n_layers - 1}"
                )
            inner, side = _in_layer(family)[block[2]]
            return Site(name, f"{family.layers}.{layer}" + (f".{inner}" if inner else ""), side)
    if name in module_paths:
        return Site(name, name, "output")
    stem = name.removesuffix(".input")
    if stem != name and stem in module_paths:
        return Site(name, stem, "input")
    raise _unknown(name, model_type, module_paths)


def _unknown(name: str, model_type: str, module_paths: Collection[str]) -> ConfigError:
    block = _BLOCK_SITE.fullmatch(name)
    if model_type in FAMILIES:
        kinds = list(_in_layer(FAMILIES[model_type]))
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
        f"store.sites: there is no site {name!r}; {allowed}, or any module's path (its output; "
        f"`<path>.input` for its input){hint}"
    )
