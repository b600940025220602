"""Llama Scope's folders: what its own library computes, written out from its file, and what is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, linalg

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.formats import llama_scope
from support.foreign_folders import LLAMA, NORM_IN, NORM_OUT, write_llama_scope
from support.handed_saes import WIDTH, rows


def by_its_library(tensors: dict[str, Tensor], config: dict[str, Any], x_BM: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and reconstructions: rows are scaled, the product taken, and codes and output scaled back."""
    norms = config["dataset_average_activation_norm"]
    wise = config["norm_activation"] == "dataset-wise"
    scale_in, scale_out = (math.sqrt(WIDTH) / norms[side] if wise else 1.0 for side in ("in", "out"))
    x_BM = x_BM.double() * scale_in
    if config["apply_decoder_bias_to_pre_encoder"]:
        x_BM = x_BM - tensors["decoder.bias"]
    pre_BE = (x_BM @ tensors["encoder.weight"].double().T + tensors["encoder.bias"]) / scale_in
    out_ME = tensors["decoder.weight"].double() * scale_in / scale_out
    if config["sparsity_include_decoder_norm"]:
        norm_E = linalg.vector_norm(out_ME, dim=0)
        pre_BE, out_ME = pre_BE * norm_E, out_ME / norm_E
    codes_BE = torch.where(pre_BE > config["jump_relu_threshold"], pre_BE, 0)
    if config["act_fn"] == "topk" and config["jump_relu_threshold"] == 0:
        top = pre_BE.clamp(min=0).topk(config["top_k"], dim=1)
        codes_BE = torch.zeros_like(pre_BE).scatter_(1, top.indices, top.values)
    bias = tensors.get("decoder.bias", torch.zeros(WIDTH)).double() / scale_out
    return codes_BE, codes_BE @ out_ME.T + bias


CASES: dict[str, dict[str, Any]] = {
    "as it is published": {},
    "without norms of rows": {"sparsity_include_decoder_norm": False},
    "scaled already": {"norm_activation": "inference"},
    "with pre_bias": {"apply_decoder_bias_to_pre_encoder": True},
    "without decoder bias": {"use_decoder_bias": False},
    "transcoder": {
        "hook_point_in": "blocks.8.ln2.hook_normalized",
        "hook_point_out": "blocks.8.hook_mlp_out",
        "dataset_average_activation_norm": {"in": NORM_IN, "out": NORM_OUT},
    },
    "topk": {"act_fn": "topk", "jump_relu_threshold": 0.0},
    "topk with a threshold": {"act_fn": "topk"},
    "relu": {"act_fn": "relu", "jump_relu_threshold": 0.0},
}


@pytest.mark.parametrize("case", CASES)
def test_codes_are_those_of_its_library(case: str, tmp_path: Path) -> None:
    tensors = write_llama_scope(tmp_path, **CASES[case])
    found, x_BM = llama_scope.read(tmp_path), rows(512)
    codes_BE, xhat_BM = by_its_library(tensors, LLAMA | CASES[case], x_BM)
    ours = found.sae.encode_inference(x_BM)
    assert float((ours.to_dense() - codes_BE).abs().max() / codes_BE.max()) < 1e-6
    assert float((found.sae.decode(ours) - xhat_BM).abs().max() / xhat_BM.abs().max()) < 1e-6
    assert 0 < int(codes_BE.count_nonzero()) < codes_BE.numel()
    if case == "as it is published":  # a control: another norm is seen
        other = LLAMA | {"dataset_average_activation_norm": {"in": NORM_IN * 1.01, "out": NORM_IN}}
        assert float((ours.to_dense() - by_its_library(tensors, other, x_BM)[0]).abs().max() / codes_BE.max()) > 1e-6


def test_its_files_say_the_sites_and_its_name_the_model(tmp_path: Path) -> None:
    (folder := tmp_path / "Llama3_1-8B-Base-L15R-8x").mkdir()
    write_llama_scope(folder)
    source = llama_scope.read(folder).source
    assert (source.site, source.writes) == ("blocks.15.hook_resid_post", None)
    assert source.model == "meta-llama/Llama-3.1-8B"
    assert sorted(source.sha256) == ["checkpoints/final.safetensors", "hyperparams.json"]
    assert source.facts["top_k"] == 8
    write_llama_scope(folder, **CASES["transcoder"])
    source = llama_scope.read(folder).source
    assert (source.site, source.writes) == ("blocks.8.ln2.hook_normalized", "blocks.8.hook_mlp_out")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rows scaled one by one": ({"norm_activation": "token-wise"}, "norm_activation: is 'token-wise'"),
    "glu": ({"use_glu_encoder": True}, "use_glu_encoder: is 'True', which changes what the SAE computes"),
    "another function": ({"act_fn": "gelu"}, "act_fn: is 'gelu'"),
    "no norms": ({"dataset_average_activation_norm": None}, "dataset_average_activation_norm: holds no norms"),
    "a norm of 0": ({"dataset_average_activation_norm": {"in": 0, "out": 1}}, "norm.in: is '0'; a number"),
    "a threshold below 0": ({"jump_relu_threshold": -1}, "jump_relu_threshold: is '-1'; a number of at least 0"),
    "no k": ({**CASES["topk"], "top_k": None}, "top_k: is 'None'; an integer is needed"),
    "another width": ({"d_model": 12}, "d_model: is '12', and the weights say 64"),
    "no site": ({"hook_point_in": 5}, "hook_point_in: is '5'"),
    "a transcoder with pre_bias": (
        {**CASES["transcoder"], "apply_decoder_bias_to_pre_encoder": True},
        "apply_decoder_bias_to_pre_encoder: is true, and a transcoder's",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_equal_is_refused_by_name(case: str, tmp_path: Path) -> None:
    changes, message = REFUSED[case]
    write_llama_scope(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        llama_scope.read(tmp_path)
