"""SAELens' folder of an SAE, read: cfg.json and sae_weights.safetensors, by the table of `saelens_writing` backwards.

What SAELens would do to rows before the encoder, or to other rows than those of the hook, is refused by name.
"""

from pathlib import Path

import torch
from pydantic import JsonValue
from torch import Tensor, linalg

from strata_sae.pipeline.errors import CheckpointError, shown
from strata_sae.pipeline.formats.building import built
from strata_sae.pipeline.formats.foreign import Foreign, Source
from strata_sae.pipeline.formats.opening import expect, file_sha256s, read_json, read_safetensors
from strata_sae.pipeline.formats.saelens_config import Config, todays
from strata_sae.pipeline.formats.saelens_writing import CONFIG, WEIGHTS
from strata_sae.pipeline.saes.base import SAE

_OURS = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "jump_relu",
    "gated": "gated",
    "transcoder": "relu",
    "jumprelu_transcoder": "jump_relu",
}
"""SAELens' architectures that are read -> ours."""
_WHY_NOT = {
    "skip_transcoder": "W_skip adds a linear map of what is read, which no architecture here has",
    "jumprelu_skip_transcoder": "W_skip adds a linear map of what is read, which no architecture here has",
    "abstopk": "its codes are negative, too",
    "matching_pursuit": "it chooses latents one after another",
    "temporal": "its codes depend on the rows before",
    "batchtopk": "it is a checkpoint of training; SAELens' save_inference_model makes a jumprelu of it",
    "matryoshka_batchtopk": "it is a checkpoint of training; SAELens' save_inference_model makes a jumprelu of it",
}


def is_one(path: Path) -> bool:
    """Whether a folder holds the two files that SAELens writes."""
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def read(path: Path) -> Foreign:
    """The SAE or transcoder in a folder. Raises: CheckpointError saying what is missing, unknown, or has no equal."""
    where = path / CONFIG
    config = todays(read_json(where, path), where)
    architecture = _architecture(config, where)
    sae = _sae(architecture, config, read_safetensors(path / WEIGHTS, path), path)
    metadata = config.metadata
    source = Source(
        format="saelens",
        path=str(path),
        sha256=file_sha256s([where, path / WEIGHTS], path),
        site=_text(metadata.get("hook_name")),
        writes=_text(metadata.get("hook_name_out")) if "transcoder" in architecture else None,
        model=_text(metadata.get("model_name")),
        facts=config.facts,
    )
    return Foreign(sae, source)


def _architecture(config: Config, where: Path) -> str:
    """SAELens' name of a class that has an equal here. Raises: CheckpointError."""
    name = config.architecture
    if name not in _OURS:
        why = _WHY_NOT.get(name, "it is unknown here")
        raise CheckpointError(f"{where}: architecture: {shown(name)!r}: {why}; allowed: {', '.join(_OURS)}")
    return name


def _sae(architecture: str, config: Config, tensors: dict[str, Tensor], path: Path) -> SAE:
    where = path / CONFIG
    is_transcoder = "transcoder" in architecture
    d_sae, d_in = config.size("d_sae"), config.size("d_in")
    d_out = config.size("d_out") if is_transcoder else d_in
    subtracts = config.flag("apply_b_dec_to_input", default=True)
    if is_transcoder and subtracts:
        raise CheckpointError(f"{where}: apply_b_dec_to_input: must be false in a transcoder, as SAELens says, too")
    _drop_unit_scale(tensors)
    expect(tensors, _shapes(architecture, d_in, d_sae, d_out), str(path / WEIGHTS))
    weights = tensors | {"W_enc": tensors["W_enc"].T.contiguous()}
    settings: dict[str, JsonValue] = {"pre_bias": subtracts}
    if architecture == "topk":
        settings |= {"k": _k(config, d_sae, where), "inference": "k"}
        if config.flag("rescale_acts_by_decoder_norm", default=False):
            weights = _folded(weights, path / WEIGHTS)
    if "threshold" in weights:
        # SAELens takes relu(pre) where pre > threshold: a threshold below 0 is one of 0.
        weights["threshold"] = weights["threshold"].clamp(min=0)
    return built(path, _OURS[architecture], weights, **settings)


def _shapes(architecture: str, d_in: int, d_sae: int, d_out: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of an architecture, by SAELens' names."""
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), "b_dec": (d_out,)}
    vectors = ("b_gate", "b_mag", "r_mag") if architecture == "gated" else ("b_enc",)
    if architecture.startswith("jumprelu"):
        vectors = (*vectors, "threshold")
    return shapes | {name: (d_sae,) for name in vectors}


def _drop_unit_scale(tensors: dict[str, Tensor]) -> None:
    """Versions before 6 wrote a factor of codes that was 1 unless it had been trained; what is not 1 stays unknown."""
    scale = tensors.get("scaling_factor")
    if scale is not None and bool((scale == 1).all()):
        del tensors["scaling_factor"]


def _k(config: Config, d_sae: int, where: Path) -> int:
    """How many latents are active. SAELens takes 100 where nothing is said, which may not be what was meant."""
    k = config.value("k")
    if k is None:
        raise CheckpointError(f"{where}: k: is missing, and a topk SAE has no other number of latents; add it")
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= d_sae:
        raise CheckpointError(f"{where}: k: is {shown(str(k))}; allowed: 1 to d_sae ({d_sae})")
    return k


def _folded(weights: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Codes that are ranked, and given, times the norm of their decoder row: the norms move into the encoder."""
    norm_E = linalg.vector_norm(weights["W_dec"], dim=1)
    if not bool((norm_E > torch.finfo(norm_E.dtype).tiny).all()):
        raise CheckpointError(
            f"{where}: 'W_dec' has a row of zeros, by whose norm rescale_acts_by_decoder_norm divides; fetch it again"
        )
    return weights | {
        "W_enc": weights["W_enc"] * norm_E[:, None],
        "b_enc": weights["b_enc"] * norm_E,
        "W_dec": weights["W_dec"] / norm_E[:, None],
    }


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None
