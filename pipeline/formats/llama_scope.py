"""Llama Scope's folders, read: hyperparams.json and checkpoints/final.safetensors, as its own library loads them.

With f_in = sqrt(d_model) / (the average norm of the rows that are read), and f_out of those that are written, the file
holds an SAE of scaled rows: codes' = act(f_in x W_enc^T + b_enc), f_out xhat = codes' W_dec^T + b_dec. Loading it, the
library divides codes by f_in, so that they are in the model's own units, and then moves the norms of decoder rows into
the encoder; its JumpReLU threshold is compared with those codes. All of it is folded into the weights here, exactly.

SAELens' loader gives codes' (f_in times ours) and leaves the norms where they are, so of a decoder whose rows have
norms far from 1 it selects otherwise.
Source: OpenMOSS/Language-Model-SAEs at the end of 2024, `SparseAutoEncoder.from_config` and
`post_process_topk_to_jumprelu_for_inference`; He et al. 2024, Llama Scope.
"""

import math
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import Tensor

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.formats.building import built
from strata_sae.pipeline.formats.foreign import Foreign, Source
from strata_sae.pipeline.formats.opening import expect, file_sha256s, matrix_shape, read_json, read_safetensors
from strata_sae.pipeline.formats.plain_files import quoted
from strata_sae.pipeline.saes.base import SAE

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
_ALLOWED: dict[str, tuple[JsonValue, ...]] = {
    "act_fn": ("jumprelu", "topk", "relu"),
    "norm_activation": ("dataset-wise", "inference"),
    "sparsity_include_decoder_norm": (True, False),
    "apply_decoder_bias_to_pre_encoder": (True, False),
    "use_decoder_bias": (True, False),
    "use_glu_encoder": (False,),
}
"""Settings that change what an SAE computes -> values that can be said here."""
_MODELS = {"Llama3_1-8B-Base-L": "meta-llama/Llama-3.1-8B"}
"""How its folders' names begin -> the model."""

Config = dict[str, JsonValue]


def is_one(path: Path) -> bool:
    """Whether a folder holds both files."""
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def read(path: Path) -> Foreign:
    """The SAE or transcoder in a folder. Raises: CheckpointError saying what is missing, unknown, or has no equal."""
    where = path / CONFIG
    config = read_json(where, path)
    for key, allowed in _ALLOWED.items():
        if config.get(key) not in allowed:
            told = f"is {quoted(str(config[key]))}" if key in config else "is missing"
            raise CheckpointError(
                f"{where}: {key}: {told}, which changes what the SAE computes; "
                f"allowed: {', '.join(map(str, allowed))}; fetch the folder again, or fold it into the weights first"
            )
    site, writes = (_text(config, key, where) for key in ("hook_point_in", "hook_point_out"))
    if config["apply_decoder_bias_to_pre_encoder"] and site != writes:
        raise CheckpointError(
            f"{where}: apply_decoder_bias_to_pre_encoder: is true, and a transcoder's b_dec is of other rows than it "
            "reads; allowed: false"
        )
    sae = _sae(config, _tensors(path, config), where)
    source = Source(
        format="llama_scope",
        path=str(path),
        sha256=file_sha256s([where, path / WEIGHTS], path),
        site=site,
        writes=None if writes == site else writes,
        model=next((model for name, model in _MODELS.items() if path.resolve().name.startswith(name)), None),
        facts=config,
    )
    return Foreign(sae, source)


def _tensors(path: Path, config: Config) -> dict[str, Tensor]:
    """By our names and in our shapes, float64, as they are in the file."""
    where = path / WEIGHTS
    tensors = read_safetensors(where, path)
    d_sae, d_model = matrix_shape(tensors, "encoder.weight", str(where))
    shapes = {"encoder.weight": (d_sae, d_model), "encoder.bias": (d_sae,), "decoder.weight": (d_model, d_sae)}
    expect(tensors, shapes | ({"decoder.bias": (d_model,)} if config["use_decoder_bias"] else {}), str(where))
    for key, found in {"d_model": d_model, "d_sae": d_sae}.items():
        if config.get(key, found) != found:
            raise CheckpointError(
                f"{path / CONFIG}: {key}: is {quoted(str(config[key]))}, and the weights say {found}; fetch it again"
            )
    return {
        "W_enc": tensors["encoder.weight"].double(),
        "b_enc": tensors["encoder.bias"].double(),
        "W_dec": tensors["decoder.weight"].T.double(),
        "b_dec": tensors["decoder.bias"].double() if config["use_decoder_bias"] else torch.zeros(d_model).double(),
    }


def _sae(config: Config, tensors: dict[str, Tensor], where: Path) -> SAE:
    if config["norm_activation"] == "dataset-wise":
        tensors |= _in_raw_units(config, tensors, where)
    if config["sparsity_include_decoder_norm"]:
        tensors |= _with_unit_decoder(tensors, where)
    weights = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    pre_bias = bool(config["apply_decoder_bias_to_pre_encoder"])
    if config["act_fn"] == "relu":
        return built(where, "relu", weights, pre_bias=pre_bias)
    threshold = _number(config.get("jump_relu_threshold", 0.0), "jump_relu_threshold", where)
    if config["act_fn"] == "topk" and threshold == 0:
        k = config.get("top_k")
        if not isinstance(k, int) or isinstance(k, bool):
            raise CheckpointError(f"{where}: top_k: is {quoted(str(k))}; an integer is needed; fetch the folder again")
        return built(where, "topk", weights, pre_bias=pre_bias, k=k, inference="k")
    # Its library, too, makes a JumpReLU of a TopK that has a threshold.
    weights["threshold"] = torch.full((weights["W_enc"].shape[0],), threshold)
    return built(where, "jump_relu", weights, pre_bias=pre_bias)


def _in_raw_units(config: Config, tensors: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """The weights that change where codes and reconstructions are those of unscaled rows."""
    key = "dataset_average_activation_norm"
    norms = config.get(key)
    if not isinstance(norms, dict):
        raise CheckpointError(
            f"{where}: {key}: holds no norms by `in` and `out`, by which dataset-wise scales; fetch it again"
        )
    root = math.sqrt(tensors["W_enc"].shape[1])
    factor_in, factor_out = (
        root / _number(norms.get(side), f"{key}.{side}", where, least=1e-6) for side in ("in", "out")
    )
    return {
        "b_enc": tensors["b_enc"] / factor_in,
        "W_dec": tensors["W_dec"] * (factor_in / factor_out),
        "b_dec": tensors["b_dec"] / factor_out,
    }


def _with_unit_decoder(tensors: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """The weights that change where norms of decoder rows move into the encoder."""
    norm_E = torch.linalg.vector_norm(tensors["W_dec"], dim=1)
    if not bool((norm_E > 0).all()):
        raise CheckpointError(
            f"{where.parent / WEIGHTS}: 'decoder.weight' has a column of zeros, which its library cannot bring to norm "
            "1, either; fetch it again"
        )
    return {
        "W_enc": tensors["W_enc"] * norm_E[:, None],
        "b_enc": tensors["b_enc"] * norm_E,
        "W_dec": tensors["W_dec"] / norm_E[:, None],
    }


def _number(value: JsonValue, key: str, where: Path, least: float = 0.0) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= 1e30:
        raise CheckpointError(f"{where}: {key}: is {quoted(str(value))}; a number of at least {least:g} is needed")
    return float(value)


def _text(config: Config, key: str, where: Path) -> str:
    value = config.get(key)
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= 200:
        raise CheckpointError(f"{where}: {key}: is {quoted(str(value))}; the name of a site is needed")
    return value
