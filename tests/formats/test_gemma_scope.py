"""Gemma Scope's params.npz: its JumpReLU, written out, and what its folders' names say."""

from pathlib import Path

import numpy as np
import pytest
import torch

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.formats import gemma_scope
from support.foreign_folders import write_gemma_scope
from support.handed_saes import LATENTS, WIDTH, rows


def test_codes_are_those_of_its_formula(tmp_path: Path) -> None:
    arrays = {name: torch.from_numpy(array) for name, array in write_gemma_scope(tmp_path).items()}
    sae, x_BM = gemma_scope.read(tmp_path).sae, rows(512)
    pre_BE = x_BM @ arrays["W_enc"] + arrays["b_enc"]
    codes_BE = pre_BE.clamp(min=0) * (pre_BE > arrays["threshold"])
    ours = sae.encode_inference(x_BM)
    assert float((ours.to_dense() - codes_BE).abs().max() / codes_BE.max()) < 1e-6
    xhat_BM = codes_BE @ arrays["W_dec"] + arrays["b_dec"]
    assert float((sae.decode(ours) - xhat_BM).abs().max() / xhat_BM.abs().max()) < 1e-6
    assert 0 < int(codes_BE.count_nonzero()) < codes_BE.numel()
    with_bias = (x_BM - arrays["b_dec"]) @ arrays["W_enc"] + arrays["b_enc"]
    assert not torch.allclose(with_bias, pre_BE), "a control: an encoder that takes b_dec from rows is another one"


def test_thresholds_below_0_and_small_names(tmp_path: Path) -> None:
    low = np.full(LATENTS, -1.0, np.float32)
    write_gemma_scope(tmp_path, threshold=low, scaling_factor=np.ones(LATENTS, np.float32))
    sae = gemma_scope.read(tmp_path).sae
    assert sae.threshold is not None
    assert not bool(sae.threshold.any())
    arrays = write_gemma_scope(tmp_path)
    np.savez_compressed(tmp_path / "params.npz", **{name.replace("W_", "w_"): array for name, array in arrays.items()})
    assert gemma_scope.read(tmp_path / "params.npz").sae.d_sae == LATENTS


SITES = {
    "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71": ("blocks.20.hook_resid_post", None, "google/gemma-2-2b"),
    "gemma-scope-2b-pt-mlp/layer_3/width_16k/average_l0_7": ("blocks.3.hook_mlp_out", None, "google/gemma-2-2b"),
    "gemma-scope-9b-pt-att/layer_0/width_16k/average_l0_7": ("blocks.0.attn.hook_z", None, "google/gemma-2-9b"),
    "gemma-scope-9b-it-res/layer_9/width_16k/canonical": ("blocks.9.hook_resid_post", None, "google/gemma-2-9b-it"),
    "gemma-scope-2b-pt-transcoders/layer_4/width_16k/average_l0_76": (
        "blocks.4.ln2.hook_normalized",
        "blocks.4.hook_mlp_out",
        "google/gemma-2-2b",
    ),
    "models--google--gemma-scope-2b-pt-res/snapshots/0a/layer_1/width_1m/average_l0_9": (
        "blocks.1.hook_resid_post",
        None,
        "google/gemma-2-2b",
    ),
    "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6": (None, None, "google/gemma-2-2b"),
    "gemma-scope-2b-pt-restaurant/layer_4": (None, None, None),
    "elsewhere/layer_20/width_16k/average_l0_71": (None, None, None),
}


@pytest.mark.parametrize("name", SITES)
def test_names_say_the_site_or_nothing_does(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    write_gemma_scope(folder)
    source = gemma_scope.read(folder).source
    assert (source.site, source.writes, source.model) == SITES[name]
    assert list(source.sha256) == ["params.npz"]
    if "average_l0_71" in name:
        assert source.facts == {"average_l0": "71", "width": "16k"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": None}, "'threshold' is missing"),
        ({"more": np.ones(3)}, "'more' is unknown, so what the SAE computes is not certain"),
        ({"scaling_factor": np.full(LATENTS, 2.0)}, "'scaling_factor' is unknown"),
        ({"W_dec": np.ones((3, WIDTH))}, "'W_dec' has shape .3, 64., and the other tensors say .256, 64."),
        ({"b_dec": np.full(WIDTH, np.nan)}, "'b_dec' holds NaN or an infinity"),
    ],
)
def test_what_is_not_certain_is_refused(changes: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    write_gemma_scope(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        gemma_scope.read(tmp_path)
