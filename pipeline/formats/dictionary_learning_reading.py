"""dictionary_learning's folder of an SAE, read: ae.pt and config.json. Codes are those of its `encode` by default.

| its class | ours |
|---|---|
| AutoEncoder, AutoEncoderNew | relu |
| GatedAutoEncoder | gated |
| AutoEncoderTopK | topk that selects the k largest of each row |
| BatchTopKSAE, MatryoshkaBatchTopKSAE | batch_topk that selects by its threshold |
| JumpReluAutoEncoder | jump_relu |

Source: `load_dictionary` of dictionary-learning 0.1.0, whose nine trainers write these classes.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import Tensor

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.formats.building import built
from strata_sae.pipeline.formats.foreign import Foreign, Source
from strata_sae.pipeline.formats.opening import expect, file_sha256s, matrix_shape, read_json, read_torch
from strata_sae.pipeline.formats.plain_files import quoted
from strata_sae.pipeline.saes.base import SAE

WEIGHTS, CONFIG = "ae.pt", "config.json"
_LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
KEYS: dict[str, tuple[str, ...]] = {
    "AutoEncoder": (*_LINEAR, "bias"),
    "AutoEncoderNew": (*_LINEAR, "decoder.bias"),
    "GatedAutoEncoder": ("encoder.weight", "decoder.weight", "decoder_bias", "r_mag", "gate_bias", "mag_bias"),
    "AutoEncoderTopK": (*_LINEAR, "b_dec"),
    "BatchTopKSAE": (*_LINEAR, "b_dec"),
    "MatryoshkaBatchTopKSAE": ("W_enc", "b_enc", "W_dec", "b_dec", "group_sizes"),
    "JumpReluAutoEncoder": ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"),
}
"""Its classes -> the tensors that every version of it writes."""
_INTEGERS = ("k", "group_sizes")
"""Tensors that hold counts; all others hold weights."""
_LATER = ("k", "threshold")
"""Of the classes that fill a k: what early versions left out of ae.pt."""
_NAMES = {
    "encoder.bias": "b_enc",
    "bias": "b_dec",
    "decoder.bias": "b_dec",
    "decoder_bias": "b_dec",
    "gate_bias": "b_gate",
    "mag_bias": "b_mag",
}
"""Its names of vectors -> ours, where they differ."""
_MAX_FACTS, _MAX_FACT_LETTERS = 64, 200


def is_one(path: Path) -> bool:
    """Whether a folder holds ae.pt, or a file is one."""
    return (path / WEIGHTS).is_file() or (path.name == WEIGHTS and path.is_file())


def read(path: Path) -> Foreign:
    """The SAE in a folder, or in ae.pt with or without a config.json beside it.

    Raises: CheckpointError saying what is missing, unknown or not certain.
    """
    folder = path.parent if path.is_file() else path
    weights, config = folder / WEIGHTS, folder / CONFIG
    tensors = read_torch(weights, folder)
    told = read_json(config, folder) if config.exists() or config.is_symlink() else None
    trainer = _group(told or {}, "trainer", config)
    kind = _class_of(trainer.get("dict_class"), tensors, weights, config, has_config=told is not None)
    sae = _sae(kind, tensors, _k(trainer.get("k"), tensors, weights, config), weights)
    source = Source(
        format="dictionary_learning",
        path=str(path),
        sha256=file_sha256s([weights] if told is None else [weights, config], folder),
        site=_site(trainer),
        model=_text(trainer.get("lm_name")),
        facts={"dict_class": kind} | _facts(trainer) | _groups(tensors),
    )
    return Foreign(sae, source)


def _class_of(name: JsonValue, tensors: Mapping[str, Tensor], weights: Path, config: Path, *, has_config: bool) -> str:
    """Its class, as the config says, or as the tensors' names leave no doubt. Raises: CheckpointError."""
    if has_config:
        if not isinstance(name, str) or name not in KEYS:
            raise CheckpointError(
                f"{config}: trainer.dict_class: is {quoted(str(name))}; allowed: {', '.join(KEYS)}; "
                "write the class that made ae.pt"
            )
        return name
    fitting = [
        kind for kind, keys in KEYS.items() if set(keys) <= set(tensors) <= {*keys, *(_LATER if _fills_k(kind) else ())}
    ]
    if len(fitting) == 1:
        return fitting[0]
    why = f"its tensors fit {' and '.join(fitting)} alike" if fitting else "its tensors fit no class that is known"
    raise CheckpointError(
        f"{weights}: {why}, and no config.json says which made it; "
        f'put one beside it, {{"trainer": {{"dict_class": …, "k": …}}}} with one of {", ".join(KEYS)}'
    )


def _fills_k(kind: str) -> bool:
    return "TopK" in kind


def _k(told: JsonValue, tensors: Mapping[str, Tensor], weights: Path, config: Path) -> int | None:
    """Active latents per row, from ae.pt and config.json. Raises: CheckpointError if they disagree, or say no count."""
    kept = tensors.get("k")
    if kept is not None and (kept.ndim or kept.is_floating_point()):
        raise CheckpointError(f"{weights}: 'k' is no single integer; fetch the file again")
    if told is not None and (not isinstance(told, int) or isinstance(told, bool)):
        raise CheckpointError(f"{config}: trainer.k: is {quoted(str(told))}; an integer is needed")
    if kept is not None and told is not None and int(kept) != told:
        raise CheckpointError(f"{config}: trainer.k: is {told}, and 'k' in ae.pt is {int(kept)}; make them one")
    return told if kept is None else int(kept)


def _sae(kind: str, tensors: dict[str, Tensor], k: int | None, where: Path) -> SAE:
    """Its class as one of ours, the matrices [E, M] as ours are."""
    inputs_first = "W_enc" in KEYS[kind]
    shape = matrix_shape(tensors, "W_enc" if inputs_first else "encoder.weight", str(where))
    d_sae, d_model = reversed(shape) if inputs_first else shape
    expect(tensors, _shapes(kind, tensors, d_sae, d_model), str(where))
    if integers := [name for name in tensors if name not in _INTEGERS and not tensors[name].is_floating_point()]:
        kind_of = str(tensors[integers[0]].dtype).removeprefix("torch.")
        raise CheckpointError(f"{where}: {integers[0]!r} holds {kind_of}; floats are needed; fetch the file again")
    if "group_sizes" in tensors and int(tensors["group_sizes"].sum()) != d_sae:
        raise CheckpointError(f"{where}: 'group_sizes' do not add up to the {d_sae} latents; fetch the file again")
    weights = {_NAMES.get(name, name): tensor for name, tensor in tensors.items() if name not in _INTEGERS}
    if inputs_first:
        weights["W_enc"] = tensors["W_enc"].T.contiguous()
    else:
        weights["W_enc"] = weights.pop("encoder.weight")
        weights["W_dec"] = weights.pop("decoder.weight").T.contiguous()
    if kind == "AutoEncoder":
        weights |= _with_unit_decoder(weights, where)
    if kind in ("AutoEncoder", "AutoEncoderNew"):
        return built(where, "relu", weights, pre_bias=kind == "AutoEncoder")
    if kind == "GatedAutoEncoder":
        return built(where, "gated", weights, pre_bias=True)
    if kind == "JumpReluAutoEncoder":
        # It takes relu(pre) where pre > threshold: a threshold below 0 is one of 0.
        return built(where, "jump_relu", weights | {"threshold": weights["threshold"].clamp(min=0)}, pre_bias=False)
    return _ranked(kind, weights, k, where)


def _ranked(kind: str, weights: dict[str, Tensor], k: int | None, where: Path) -> SAE:
    """One of the classes that fill a k. Raises: CheckpointError if nothing says how large k is."""
    if k is None:
        raise CheckpointError(f"{where}: 'k' is missing, in config.json, too; write it there as trainer.k")
    threshold = weights.pop("threshold", None)
    if kind == "AutoEncoderTopK":
        # -1 says that none was estimated.
        if threshold is not None and float(threshold) >= 0:
            weights["threshold"] = threshold.double()
        return built(where, "topk", weights, pre_bias=True, k=k, inference="k")
    if threshold is None:
        raise CheckpointError(f"{where}: 'threshold' is missing, by which {kind} selects; fetch the file again")
    weights["threshold"] = threshold.double().clamp(min=0)
    return built(where, "batch_topk", weights, pre_bias=True, k=k, inference="threshold")


def _shapes(kind: str, tensors: Mapping[str, Tensor], d_sae: int, d_model: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of a class."""
    known: dict[str, tuple[int, ...]] = {
        "encoder.weight": (d_sae, d_model),
        "decoder.weight": (d_model, d_sae),
        "W_enc": (d_model, d_sae),
        "W_dec": (d_sae, d_model),
        "k": (),
        "group_sizes": tuple(tensors["group_sizes"].shape)[:1] if "group_sizes" in tensors else (1,),
    }
    of_model = {"bias", "decoder.bias", "decoder_bias", "b_dec"}
    shapes = {name: known.get(name, (d_model,) if name in of_model else (d_sae,)) for name in KEYS[kind]}
    return shapes | {name: () for name in _LATER if name in tensors and _fills_k(kind)}


def _with_unit_decoder(weights: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """As `load_dictionary` does with an AutoEncoder: norms of decoder rows go into the encoder if any is not 1."""
    norm_E = torch.linalg.vector_norm(weights["W_dec"].T, dim=0)
    if torch.allclose(norm_E, torch.ones_like(norm_E)):
        return {}
    if not bool((norm_E > 0).all()):
        raise CheckpointError(
            f"{where}: 'decoder.weight' has a column of zeros, which dictionary_learning cannot bring to norm 1, "
            "either; train it again"
        )
    return {
        "W_dec": weights["W_dec"] / norm_E[:, None],
        "W_enc": weights["W_enc"] * norm_E[:, None],
        "b_enc": weights["b_enc"] * norm_E,
    }


def _site(trainer: Mapping[str, JsonValue]) -> str | None:
    """Whose rows it reads: only `submodule_name` says so, since a layer has several places."""
    name = _text(trainer.get("submodule_name")) or ""
    found = re.fullmatch(r"resid_post_layer_(\d{1,5})", name)
    if found:
        return f"blocks.{found[1]}.hook_resid_post"
    return name if re.fullmatch(r"blocks\.\d{1,5}\.[\w.]{1,60}", name) else None


def _facts(trainer: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The trainer's settings that are single values."""
    plain = {
        key: value
        for key, value in trainer.items()
        if isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= _MAX_FACT_LETTERS)
    }
    return dict(list(plain.items())[:_MAX_FACTS])


def _groups(tensors: Mapping[str, Tensor]) -> dict[str, JsonValue]:
    return {"group_sizes": tensors["group_sizes"].tolist()} if "group_sizes" in tensors else {}


def _group(config: Mapping[str, JsonValue], name: str, where: Path) -> dict[str, JsonValue]:
    value = config.get(name, {})
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: {name}: is {quoted(str(value))}; an object is needed")
    return value


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) and value else None
