"""Folders as other libraries publish them: one of each format, with small random weights."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from torch import Tensor

from strata_sae.pipeline.formats import FORMATS
from support.handed_saes import LATENTS, WIDTH, handed, made, weights

NORM_IN, NORM_OUT = 12.5, 5.0
LLAMA: dict[str, Any] = {
    "act_fn": "jumprelu",
    "jump_relu_threshold": 2.5,
    "norm_activation": "dataset-wise",
    "dataset_average_activation_norm": {"in": NORM_IN, "out": NORM_IN},
    "sparsity_include_decoder_norm": True,
    "apply_decoder_bias_to_pre_encoder": False,
    "use_decoder_bias": True,
    "use_glu_encoder": False,
    "top_k": 8,
    "d_model": WIDTH,
    "d_sae": LATENTS,
    "hook_point_in": "blocks.15.hook_resid_post",
    "hook_point_out": "blocks.15.hook_resid_post",
    "dtype": "torch.bfloat16",
}


def write_gemma_scope(folder: Path, **changes: Any) -> dict[str, np.ndarray]:
    """params.npz. Returns: its arrays."""
    drawn = weights(WIDTH, WIDTH, LATENTS)
    arrays = {name: drawn[name].numpy() for name in ("W_dec", "b_enc", "b_dec")}
    arrays |= {"W_enc": np.ascontiguousarray(drawn["W_enc"].numpy().T), "threshold": np.full(LATENTS, 1.5, np.float32)}
    arrays = {name: array for name, array in (arrays | changes).items() if array is not None}
    np.savez(folder / "params.npz", **arrays)
    return arrays


def llama_weights(norms: float = 0.3) -> dict[str, Tensor]:
    """As a checkpoint has them, of scaled rows. norms: spread of the decoder rows' norms around 1."""
    drawn = weights(WIDTH, WIDTH, LATENTS, norms=norms)
    factor = math.sqrt(WIDTH) / NORM_IN
    return {
        "encoder.weight": drawn["W_enc"].contiguous(),
        "encoder.bias": drawn["b_enc"] * factor,
        "decoder.weight": drawn["W_dec"].T.contiguous(),
        "decoder.bias": drawn["b_dec"] * factor,
    }


def write_llama_scope(folder: Path, norms: float = 0.3, **changes: Any) -> dict[str, Tensor]:
    """Both files. Returns: the tensors."""
    tensors = llama_weights(norms)
    config = LLAMA | changes
    if not config["use_decoder_bias"]:
        del tensors["decoder.bias"]
    (folder / "checkpoints").mkdir(exist_ok=True)
    safetensors.torch.save_file(tensors, folder / "checkpoints" / "final.safetensors")
    (folder / "hyperparams.json").write_text(json.dumps(config))
    return tensors


def write_folder(format: str, folder: Path) -> None:
    """An unharmed folder of a format: an export where it is written, else as its library publishes it."""
    folder.mkdir(parents=True, exist_ok=True)
    others = {"gemma_scope": write_gemma_scope, "llama_scope": write_llama_scope}
    if format in others:
        others[format](folder)
        return
    write = FORMATS[format].write
    assert write is not None, f"say here how a folder of {format} is made"
    write(handed(made("topk")), folder)
