"""dictionary_learning's own SAEs in ours and back, of all nine trainers; and ours, exported, in its own hands."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import strata_sae as strata
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.export.exporting import export
from strata_sae.pipeline.formats import FORMATS
from strata_sae.pipeline.saes.base import SAE
from support.demo_run import VARIANTS, DemoRun
from support.dictionary_learning_settings import TRAINERS
from support.dictionary_learning_side import DictionaryLearning, without_a_language_model
from support.handed_saes import handed, rows
from support.library_parity import Agreement, agreement

pytestmark = pytest.mark.peers

D_MODEL, D_SAE, N_ROWS = 64, 256, 4096
CLASSES = {
    "relu": "AutoEncoder",
    "relu_tied": "AutoEncoder",
    "gated": "GatedAutoEncoder",
    "topk": "AutoEncoderTopK",
    "topk_by_threshold": "BatchTopKSAE",
    "topk_by_contribution": "AutoEncoderTopK",
    "orthogonal": "AutoEncoderTopK",
    "batch_topk": "BatchTopKSAE",
    "batch_topk_by_k": "AutoEncoderTopK",
    "matryoshka": "BatchTopKSAE",
    "jump_relu": "JumpReluAutoEncoder",
}
"""Ours that fit -> their class."""
EQUAL = {"AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "BatchTopKSAE"}
"""Classes whose encoder product is taken as ours is, so that codes are equal to the last bit."""


def load(folder: Path) -> Any:
    without_a_language_model()
    from dictionary_learning.utils import load_dictionary

    return load_dictionary(str(folder), "cpu")[0]


def theirs_of(sae: Any, x_BM: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        codes_BE = sae.encode(x_BM)
        return codes_BE, sae.decode(codes_BE)


def assert_close(found: Agreement) -> None:
    assert (found.codes <= 1e-6, found.flips, found.xhat <= 1e-6) == (True, 0, True), found


def saved(name: str, folder: Path) -> dict[str, Any]:
    """What trainSAE saves of one of their trainers, whose SAE has random weights. Returns: the config."""
    same = TRAINERS[name]
    theirs = DictionaryLearning(
        same.trainer, dtype=torch.float32, steps=300, activation_dim=D_MODEL, dict_size=D_SAE, **same.theirs
    ).trainer
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, parameter in theirs.ae.named_parameters():
            scale = 1.0 if parameter.ndim == 2 else 0.2
            parameter.mul_(2.0).add_(scale * torch.randn(parameter.shape, generator=generator) / D_MODEL**0.5)
            if key in ("bias", "b_dec", "decoder_bias", "decoder.bias"):
                parameter.copy_(rows(256).mean(0))
            if key == "threshold":
                parameter.copy_(torch.randn(D_SAE, generator=generator))  # also below 0, where it is none
        if name in ("batch_topk", "matryoshka"):
            theirs.ae.threshold.fill_(4.0)
    folder.mkdir()
    torch.save(theirs.ae.state_dict(), folder / "ae.pt")
    config = {"trainer": theirs.config, "buffer": {"ctx_len": 128, "d_submodule": D_MODEL, "io": "out"}}
    (folder / "config.json").write_text(json.dumps(config, indent=4))
    return config


@pytest.mark.parametrize("name", TRAINERS)
def test_their_saes_in_ours_and_back(name: str, tmp_path: Path) -> None:
    folder, x_BM = tmp_path / "theirs", rows(N_ROWS)
    config = saved(name, folder)
    if name == "april_no_pre_bias":  # the trainer writes the name of another class, with which nobody can load it
        with pytest.raises(CheckpointError, match="'bias' is missing"):
            strata.load(folder)
        config["trainer"]["dict_class"] = "AutoEncoderNew"
        (folder / "config.json").write_text(json.dumps(config))
    found, theirs = strata.load(folder), load(folder)
    told = agreement(found.sae, x_BM, *theirs_of(theirs, x_BM))
    print(f"{name}: {type(theirs).__name__}, L0 {l0(found.sae, x_BM):.1f}, {told}")
    assert_close(told)
    assert 0 < l0(found.sae, x_BM) < D_SAE
    without = folder / "config.json"
    if "topk" not in name:  # the tensors alone say as much
        without.unlink()
        assert torch.equal(dense(strata.load(folder).sae, x_BM), dense(found.sae, x_BM))
    again = tmp_path / "again"
    again.mkdir()
    write = FORMATS["dictionary_learning"].write
    assert write is not None
    write(handed(found.sae), again)
    back = load(again)
    codes_BE, xhat_BM = theirs_of(back, x_BM)
    assert_close(agreement(found.sae, x_BM, codes_BE, xhat_BM))
    if type(back).__name__ in EQUAL:
        assert torch.equal(codes_BE, dense(found.sae, x_BM))


def l0(sae: SAE, x_BM: Tensor) -> float:
    return float((dense(sae, x_BM) != 0).sum(1).float().mean())


def dense(sae: SAE, x_BM: Tensor) -> Tensor:
    return sae.encode_inference(x_BM).to_dense()


@pytest.mark.parametrize("name", CLASSES)
def test_an_export_is_the_same_sae_there(name: str, demo_run: DemoRun, tmp_path: Path) -> None:
    trained, x_BM = strata.load(demo_run.address(name), "strata"), demo_run.rows_NM
    theirs = load(export(demo_run.address(name), "dictionary_learning", tmp_path / "out"))
    assert type(theirs).__name__ == CLASSES[name]
    codes_BE, xhat_BM = theirs_of(theirs, x_BM)
    told = agreement(trained.sae, x_BM, codes_BE, xhat_BM)
    equal = torch.equal(codes_BE, dense(trained.sae, x_BM))
    print(f"{name}: {type(theirs).__name__}, L0 {l0(trained.sae, x_BM):.1f}, {told}, equal bits: {equal}")
    assert l0(trained.sae, x_BM) > 1
    assert_close(told)
    if CLASSES[name] in EQUAL and name != "topk_by_contribution":
        assert equal
    read = strata.load(tmp_path / "out")
    assert_close(agreement(trained.sae, x_BM, dense(read.sae, x_BM), read.decode(read.encode(x_BM))))


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - set(CLASSES)))
def test_what_it_has_no_class_for(name: str, demo_run: DemoRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dictionary_learning"):
        export(demo_run.address(name), "dictionary_learning", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_weight_that_moved_is_found(demo_run: DemoRun, tmp_path: Path) -> None:
    """The control: a thousandth of one weight, of one latent."""
    trained, x_BM = strata.load(demo_run.address("topk"), "strata"), demo_run.rows_NM
    theirs = load(export(demo_run.address("topk"), "dictionary_learning", tmp_path / "out"))
    latent = int(theirs_of(theirs, x_BM)[0].sum(0).argmax())
    theirs.encoder.weight.data[latent] *= 1.001
    assert agreement(trained.sae, x_BM, *theirs_of(theirs, x_BM)).codes > 1e-6
