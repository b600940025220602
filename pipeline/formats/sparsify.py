"""EleutherAI's sparsify: cfg.json and sae.safetensors, as its `SparseCoder` writes and reads them.

Its coder takes relu(W (x - b_dec) + b), or relu(W x + b) where `transcode` is true, and of that the k largest of each
row, or the largest of each of k groups. Its decoder is as wide as its encoder. Source: sparsify 1.3.3, sparse_coder.py.
"""

import json
from pathlib import Path
from typing import TypeVar

import safetensors.torch
from pydantic import JsonValue
from torch import Tensor

from strata_sae.pipeline.errors import CheckpointError, shown
from strata_sae.pipeline.formats.building import built, encoder_bias
from strata_sae.pipeline.formats.foreign import DoesNotFit, Foreign, Handed, Source
from strata_sae.pipeline.formats.opening import expect, file_sha256s, read_json, read_safetensors
from strata_sae.pipeline.formats.ranked import final_k, refuse_unfolded
from strata_sae.pipeline.saes.groupmax import GroupMax
from strata_sae.pipeline.saes.topk import Ranked
from strata_sae.stores.files.filesystem import write_bytes

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
EXPANSION_FACTOR = 32
"""Latents per width, where cfg.json says neither. Default: sparsify."""

Json = dict[str, JsonValue]


def is_one(path: Path) -> bool:
    """Whether a folder holds the two files that sparsify writes."""
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def read(path: Path) -> Foreign:
    """The sparse coder in a folder. Raises: CheckpointError saying what is missing, unknown, or has no equal."""
    where = path / CONFIG
    config = read_json(where, path)
    activation = _of_kind(config, "activation", where, "topk")
    if activation not in ("topk", "groupmax"):
        raise CheckpointError(f"{where}: activation: is {shown(activation)!r}; allowed: topk, groupmax")
    for key, why in (
        ("signed", "its codes are negative, too"),
        ("skip_connection", "W_skip adds a linear map of what is read, which no architecture here has"),
    ):
        if _of_kind(config, key, where, False):
            raise CheckpointError(f"{where}: {key}: is true: {why}; such a coder has no equal here")
    d_in = _positive(config, "d_in", where)
    d_sae = _of_kind(config, "num_latents", where, 0)
    d_sae = d_sae or d_in * _of_kind(config, "expansion_factor", where, EXPANSION_FACTOR)
    is_transcoder = _of_kind(config, "transcode", where, False)
    tensors = read_safetensors(path / WEIGHTS, path)
    shapes = {"encoder.weight": (d_sae, d_in), "encoder.bias": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    expect(tensors, shapes, str(path / WEIGHTS))
    weights = {"W_enc": tensors["encoder.weight"], "b_enc": tensors["encoder.bias"]}
    weights |= {name: tensors[name] for name in ("W_dec", "b_dec")}
    ours = {"k": _positive(config, "k", where), "pre_bias": not is_transcoder}
    sae = built(path, activation, weights, **ours)
    site, writes, model = (_text(config.get(key)) for key in ("hook_name", "hook_name_out", "model_name"))
    hashes = file_sha256s([where, path / WEIGHTS], path)
    return Foreign(sae, Source("sparsify", str(path), hashes, site, writes, model, facts=config))


def write(handed: Handed, out: Path) -> None:
    """Both files into an empty folder. Raises: DoesNotFit if sparsify has no such coder; nothing is written then."""
    activation, k = _selection(handed)
    sae = handed.sae
    is_transcoder = handed.site != handed.writes
    if sae.d_in != sae.d_out:
        raise DoesNotFit(
            f"{handed.name}: reads rows {sae.d_in} wide and writes rows {sae.d_out} wide; sparsify's are of one width"
        )
    config: Json = {
        "activation": activation,
        "d_in": sae.d_in,
        "expansion_factor": max(1, sae.d_sae // sae.d_in),
        "k": k,
        "multi_topk": False,
        "normalize_decoder": sae.settings.decoder == "unit",
        "num_latents": sae.d_sae,
        "skip_connection": False,
        "transcode": is_transcoder,
        # Beside sparsify's own keys, which leaves the others alone.
        "hook_name": handed.site,
        "hook_name_out": handed.writes if is_transcoder else None,
        "model_name": handed.model,
        "strata": handed.provenance,
    }
    tensors: dict[str, Tensor] = {
        "encoder.weight": sae.W_enc,
        "encoder.bias": encoder_bias(sae, subtracts=not is_transcoder),
        "W_dec": sae.W_dec,
        "b_dec": sae.b_dec,
    }
    plain = {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False)
    write_bytes(out / WEIGHTS, safetensors.torch.save(plain))
    write_bytes(out / CONFIG, (text + "\n").encode("utf-8"))


def _selection(handed: Handed) -> tuple[str, int]:
    """What chooses the latents, by sparsify's name, and k. Raises: DoesNotFit."""
    sae = handed.sae
    if isinstance(sae, GroupMax):
        return "groupmax", sae.settings.k
    if not isinstance(sae, Ranked) or sae.settings.inference != "k":
        ours = sae.settings.architecture
        how = f"{ours} with inference: threshold" if isinstance(sae, Ranked) else ours
        is_nowhere = ours in ("identity", "two_child_topk") or (ours == "gated" and handed.writes != handed.site)
        elsewhere = "" if is_nowhere else "; --format saelens has a class for it"
        raise DoesNotFit(f"{handed.name}: sparsify has the k largest of each row and groupmax, no {how}{elsewhere}")
    refuse_unfolded(handed)
    return "topk", final_k(handed)


T = TypeVar("T", str, bool, int)


def _of_kind(config: Json, key: str, where: Path, default: T) -> T:
    """What stands at a key, of the kind of its default. Raises: CheckpointError if it is something else."""
    found = config.get(key, default)
    if type(found) is not type(default):
        raise CheckpointError(f"{where}: {key}: is {shown(str(found))}; {type(default).__name__} is needed")
    return found


def _positive(config: Json, key: str, where: Path) -> int:
    """A count. Raises: CheckpointError if it is missing, or no positive integer."""
    found = config.get(key)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        told = "is missing" if key not in config else f"is {shown(str(found))}"
        raise CheckpointError(f"{where}: {key}: {told}; a positive integer is needed")
    return found


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None
