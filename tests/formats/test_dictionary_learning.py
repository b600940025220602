"""dictionary_learning's folders: what is written comes back with equal codes, and what is not certain is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.formats import dictionary_learning_reading as reading
from strata_sae.pipeline.formats import dictionary_learning_writing as writing
from strata_sae.pipeline.formats.foreign import DoesNotFit
from strata_sae.pipeline.saes.base import SAE
from support.handed_saes import ROUTES, SETTINGS, SITE, WRITES, handed, made, rows, transcoder

CLASSES = {
    "relu": "AutoEncoder",
    "relu tied": "AutoEncoder",
    "relu without pre_bias": "AutoEncoderNew",
    "gated": "GatedAutoEncoder",
    "topk": "AutoEncoderTopK",
    "topk with k falling": "AutoEncoderTopK",
    "topk by threshold": "BatchTopKSAE",
    "batch_topk": "BatchTopKSAE",
    "batch_topk by k": "AutoEncoderTopK",
    "jump_relu": "JumpReluAutoEncoder",
}
ROUNDED = {"topk without pre_bias": "AutoEncoderTopK", "jump_relu with pre_bias": "JumpReluAutoEncoder"}
"""Those whose b_enc becomes a sum, rounded once."""


def codes_of(sae: SAE) -> Tensor:
    return sae.encode_inference(rows(512)).to_dense()


def through(sae: SAE, folder: Path) -> SAE:
    writing.write(handed(sae), folder)
    assert reading.is_one(folder)
    return reading.read(folder).sae


@pytest.mark.parametrize("name", CLASSES)
def test_an_sae_comes_back_bit_by_bit(name: str, tmp_path: Path) -> None:
    sae = made(name)
    found = through(sae, tmp_path)
    assert torch.equal(codes_of(found), codes_of(sae))
    assert torch.equal(found.decode(found.encode_inference(rows(64))), sae.decode(sae.encode_inference(rows(64))))
    assert 0 < int(codes_of(sae).count_nonzero()) < codes_of(sae).numel(), "a control: neither all nor none"
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["trainer"]["dict_class"] == CLASSES[name]
    assert config["strata"] == {"store_ids": {SITE: "5b" * 32}}


@pytest.mark.parametrize("name", ROUNDED)
def test_a_folded_bias_is_rounded_once(name: str, tmp_path: Path) -> None:
    sae = made(name)
    ours, theirs = codes_of(sae), codes_of(through(sae, tmp_path))
    assert float((ours - theirs).abs().max() / ours.max()) < 1e-6
    assert not torch.equal(ours, theirs)
    shifted = made(name)
    shifted.b_enc += 0.01  # a control: an unfolded bias is seen
    assert float((ours - codes_of(shifted)).abs().max() / ours.max()) > 1e-6


def test_a_gate_without_pre_bias(tmp_path: Path) -> None:
    sae = made("gated", pre_bias=False)
    ours, theirs = codes_of(sae), codes_of(through(sae, tmp_path))
    assert float((ours - theirs).abs().max() / ours.max()) < 1e-6
    assert int(ours.count_nonzero()) > 0


def test_a_relu_of_free_rows_keeps_its_codes(tmp_path: Path) -> None:
    """An AutoEncoder's would be scaled by the norms of its rows when it is loaded."""
    sae = made("relu", decoder="free")
    sae.W_dec[::2] *= 3
    found = through(sae, tmp_path)
    ours, theirs = codes_of(sae), codes_of(found)
    assert float((ours - theirs).abs().max() / ours.max()) < 1e-6
    assert found.settings.decoder == "free"


def test_an_autoencoder_is_brought_to_norm_1_as_when_it_is_loaded_there(tmp_path: Path) -> None:
    sae = made("relu")
    writing.write(handed(sae), tmp_path)
    tensors = torch.load(tmp_path / "ae.pt")
    norm_E = torch.linspace(0.5, 2, sae.d_sae)
    torch.save(tensors | {"decoder.weight": tensors["decoder.weight"] * norm_E}, tmp_path / "ae.pt")
    scaled = codes_of(sae) * norm_E
    assert float((codes_of(reading.read(tmp_path).sae) - scaled).abs().max() / scaled.max()) < 1e-6
    torch.save(tensors | {"decoder.weight": tensors["decoder.weight"] * 0}, tmp_path / "ae.pt")
    with pytest.raises(CheckpointError, match="a column of zeros"):
        reading.read(tmp_path)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in CLASSES | ROUNDED])
def test_what_does_not_fit_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match=f"any@somewhere: .*{name.partition(' ')[0]}"):
        writing.write(handed(made(name)), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ROUTES)
def test_no_transcoder_fits(name: str, tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match="no transcoder fits; --format saelens"):
        writing.write(handed(transcoder(name), WRITES), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_equal_saes_give_equal_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        writing.write(handed(made("topk")), tmp_path / folder)
    for name in ("ae.pt", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_the_files_say_is_kept(tmp_path: Path) -> None:
    writing.write(handed(made("topk")), tmp_path)
    source = reading.read(tmp_path).source
    assert (source.site, source.writes, source.model) == (SITE, None, "some/model")
    assert sorted(source.sha256) == ["ae.pt", "config.json"]
    assert (source.facts["k"], source.facts["dict_class"], source.facts["layer"]) == (8, "AutoEncoderTopK", 8)


Edit = Callable[[dict[str, Tensor], dict[str, Any]], Any]


def edited(folder: Path, name: str, edit: Edit) -> None:
    """An export with its tensors and the trainer's settings changed; a trainer without settings: no config at all."""
    writing.write(handed(made(name)), folder)
    tensors, config = torch.load(folder / "ae.pt"), json.loads((folder / "config.json").read_text())
    edit(tensors, config["trainer"])
    torch.save(tensors, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps(config))
    if not config["trainer"]:
        (folder / "config.json").unlink()


@pytest.mark.parametrize("name", ["relu", "relu without pre_bias", "gated", "jump_relu"])
def test_keys_are_enough_where_they_leave_no_doubt(name: str, tmp_path: Path) -> None:
    edited(tmp_path, name, lambda tensors, trainer: trainer.clear())
    found = reading.read(tmp_path / "ae.pt")
    assert torch.equal(codes_of(found.sae), codes_of(made(name)))
    assert found.source.facts == {"dict_class": CLASSES[name]}
    assert (found.source.site, list(found.source.sha256)) == (None, ["ae.pt"])


def test_nested_groups_are_a_batch_topk(tmp_path: Path) -> None:
    def to_matryoshka(tensors: dict[str, Tensor], trainer: dict[str, Any]) -> None:
        trainer.clear()
        names = {"encoder.bias": "b_enc", "b_dec": "b_dec", "threshold": "threshold", "k": "k"}
        kept = {theirs: tensors[ours] for ours, theirs in names.items()}
        kept |= {"W_enc": tensors["encoder.weight"].T, "W_dec": tensors["decoder.weight"].T}
        tensors.clear()
        tensors.update(kept, group_sizes=torch.tensor([100, 156]))

    edited(tmp_path, "batch_topk", to_matryoshka)
    found = reading.read(tmp_path)
    assert torch.equal(codes_of(found.sae), codes_of(made("batch_topk")))
    assert found.source.facts == {"dict_class": "MatryoshkaBatchTopKSAE", "group_sizes": [100, 156]}


def test_a_topk_without_a_threshold_has_none(tmp_path: Path) -> None:
    edited(tmp_path, "topk", lambda tensors, trainer: tensors.update(threshold=torch.tensor(-1.0)))
    assert reading.read(tmp_path).sae.threshold is None
    edited(tmp_path, "topk", lambda tensors, trainer: (tensors.pop("threshold"), tensors.pop("k")))
    assert reading.read(tmp_path).sae.encode_inference(rows(9)).n_active() <= 9 * 8


def test_a_batch_topk_without_a_threshold_is_a_relu_as_there(tmp_path: Path) -> None:
    edited(tmp_path, "batch_topk", lambda tensors, trainer: tensors.update(threshold=torch.tensor(-1.0)))
    sae = reading.read(tmp_path).sae
    assert torch.equal(codes_of(sae), sae.pre_activations(rows(512)).clamp(min=0))


REFUSED: dict[str, tuple[str, Edit, str]] = {
    "no class": ("topk", lambda t, c: c.pop("dict_class"), "dict_class: is 'None'; allowed: AutoEncoder, "),
    "another class": ("topk", lambda t, c: c.update(dict_class="IdentityDict"), "is 'IdentityDict'; allowed"),
    "a class of other keys": ("topk", lambda t, c: c.update(dict_class="AutoEncoder"), "'bias' is missing"),
    "no config": ("topk", lambda t, c: c.clear(), "fit AutoEncoderTopK and BatchTopKSAE alike, and no config.json"),
    "unknown keys, no config": ("topk", lambda t, c: (c.clear(), t.update(more=t["k"])), "fit no class that is known"),
    "another k": ("topk", lambda t, c: c.update(k=9), "trainer.k: is 9, and 'k' in ae.pt is 8"),
    "k as text": ("topk", lambda t, c: c.update(k="8"), "trainer.k: is '8'; an integer is needed"),
    "k of floats": ("topk", lambda t, c: t.update(k=torch.tensor(8.0)), "'k' is no single integer"),
    "k too large": ("topk", lambda t, c: (t.pop("k"), c.update(k=10**6)), "k .1000000. must not exceed d_sae"),
    "no k": ("topk", lambda t, c: (t.pop("k"), c.pop("k")), "'k' is missing, in config.json, too"),
    "no threshold": ("batch_topk", lambda t, c: t.pop("threshold"), "'threshold' is missing, by which BatchTopKSAE"),
    "thresholds of latents": ("batch_topk", lambda t, c: t.update(threshold=torch.ones(256)), "'threshold' has shape"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_certain_is_refused(case: str, tmp_path: Path) -> None:
    name, edit, message = REFUSED[case]
    edited(tmp_path, name, edit)
    with pytest.raises(CheckpointError, match=message):
        reading.read(tmp_path)
