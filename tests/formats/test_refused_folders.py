"""What in a folder of SAELens or sparsify changes what an SAE computes, or is not certain, is refused by its name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.formats import FORMATS
from support.handed_saes import SITE, WRITES, handed, made, rows, transcoder

Tensors = dict[str, Tensor]
Edit = Callable[[dict[str, Any], Tensors], Any]
WEIGHTS = {"saelens": "sae_weights.safetensors", "sparsify": "sae.safetensors"}


def edited(format: str, name: str, edit: Edit, folder: Path) -> Path:
    """A folder of a good SAE (or `-> transcoder`), changed."""
    is_transcoder, name = name.endswith("->"), name.removesuffix(" ->")
    sae = transcoder(name) if is_transcoder else made(name)
    write = FORMATS[format].write
    assert write is not None
    write(handed(sae, WRITES if is_transcoder else SITE), folder)
    config = json.loads((folder / "cfg.json").read_text())
    tensors = safetensors.torch.load_file(folder / WEIGHTS[format])
    edit(config, tensors)
    (folder / "cfg.json").write_text(json.dumps(config))
    safetensors.torch.save_file(tensors, folder / WEIGHTS[format])
    return folder


def read(format: str, folder: Path) -> Any:
    reader = FORMATS[format].read
    assert reader is not None
    return reader(folder)


def config(**changes: Any) -> Edit:
    return lambda config, _: config.update(changes)


def metadata(**changes: Any) -> Edit:
    return lambda config, _: config["metadata"].update(changes)


def without(key: str) -> Edit:
    return lambda config, _: config.pop(key)


def tensor(name: str, value: Tensor) -> Edit:
    return lambda _, tensors: tensors.update({name: value})


def no_tensor(name: str) -> Edit:
    return lambda _, tensors: tensors.pop(name)


def nan_in(name: str) -> Edit:
    return lambda _, tensors: tensors[name].view(-1)[7].fill_(torch.nan)


def zero_row(config: dict[str, Any], tensors: Tensors) -> None:
    config["rescale_acts_by_decoder_norm"] = True
    tensors["W_dec"][3] = 0


def old(**changes: Any) -> Edit:
    """As versions of SAELens before 6 wrote it: everything at the top."""

    def edit(config: dict[str, Any], _: Tensors) -> None:
        kept = config.pop("metadata")
        config.update({key: kept[key] for key in ("model_name", "hook_name")} | {"sae_lens_version": "4.3.0"})
        for key in ("architecture", "k", "reshape_activations", "rescale_acts_by_decoder_norm"):
            config.pop(key, None)
        config.update(changes)

    return edit


SAELENS: dict[str, tuple[str, Edit, str]] = {
    "normalised": ("relu", config(normalize_activations="layer_norm"), "normalize_activations"),
    "normalised on average": (
        "topk",
        config(normalize_activations="expected_average_only_in"),
        "normalize_activations",
    ),
    "reshaped": ("relu", config(reshape_activations="hook_z"), "reshape_activations"),
    "one head": ("relu", metadata(hook_head_index=3), "hook_head_index"),
    "some positions": ("relu", metadata(seqpos_slice=[1, None]), "seqpos_slice"),
    "finetuned": ("relu", config(finetuning_scaling_factor=True), "finetuning_scaling_factor"),
    "scaled codes": ("relu", tensor("scaling_factor", torch.full((256,), 2.0)), "scaling_factor"),
    "no k": ("topk", without("k"), "k: is missing"),
    "k 0": ("topk", config(k=0), "k: is 0"),
    "k of text": ("topk", config(k="8"), "k: is 8"),
    "k true": ("topk", config(k=True), "k: is True"),
    "k too large": ("topk", config(k=257), "k: is 257"),
    "rescaled by 0": ("topk", zero_row, "row of zeros"),
    "no d_in": ("relu", without("d_in"), "d_in: is missing"),
    "d_in of text": ("relu", config(d_in="64"), "d_in: is 64"),
    "another d_sae": ("relu", config(d_sae=128), "'W_enc' has shape"),
    "no d_out": ("relu ->", without("d_out"), "d_out: is missing"),
    "transcoder that takes b_dec": ("relu ->", without("apply_b_dec_to_input"), "apply_b_dec_to_input"),
    "b_dec of text": ("relu", config(apply_b_dec_to_input="no"), "apply_b_dec_to_input: is no"),
    "no architecture": ("relu", without("architecture"), "architecture"),
    "another architecture": ("relu", config(architecture="magic"), "architecture: 'magic'"),
    **{
        name: ("relu", config(architecture=name), name)
        for name in ("abstopk", "matching_pursuit", "temporal", "batchtopk", "matryoshka_batchtopk")
    },
    "skip": ("relu ->", config(architecture="skip_transcoder"), "W_skip"),
    "W_skip": ("relu ->", tensor("W_skip", torch.zeros(64, 64)), "'W_skip'"),
    "no b_enc": ("relu", no_tensor("b_enc"), "'b_enc'"),
    "gated with b_enc": ("gated", tensor("b_enc", torch.zeros(256)), "'b_enc'"),
    "no threshold": ("jump_relu", no_tensor("threshold"), "'threshold'"),
    "one threshold": ("jump_relu", tensor("threshold", torch.ones(1)), "'threshold' has shape"),
    "transposed": ("relu", tensor("W_enc", torch.zeros(256, 64)), "'W_enc' has shape"),
    "NaN": ("relu", nan_in("W_dec"), "'W_dec' holds NaN"),
    "integers": ("relu", tensor("b_dec", torch.zeros(64, dtype=torch.int32)), "b_dec"),
    "version of 5,000 digits": ("relu", metadata(sae_lens_version="9" * 5000), "sae_lens_version"),
    "version of nothing": ("relu", metadata(sae_lens_version="new"), "sae_lens_version"),
    "metadata of text": ("relu", config(metadata="none"), "metadata"),
    "old and normalised": ("relu", old(normalize_activations=True), "normalize_activations"),
    "old and of heads": ("relu", old(hook_point="blocks.1.attn.hook_z", hook_name=None), "reshape_activations"),
    "old with another activation": ("relu", old(activation_fn_str="tanh-relu"), "activation_fn"),
    "old topk without k": ("topk", old(activation_fn_str="topk", activation_fn_kwargs={}), "activation_fn"),
}
SPARSIFY: dict[str, tuple[str, Edit, str]] = {
    "signed": ("topk", config(signed=True), "signed"),
    "skip connection": ("topk", config(skip_connection=True), "skip_connection"),
    "W_skip": ("topk", tensor("W_skip", torch.zeros(64, 64)), "'W_skip'"),
    "another activation": ("topk", config(activation="relu"), "activation: is 'relu'"),
    "activation of a number": ("topk", config(activation=3), "activation: is 3"),
    "no k": ("topk", without("k"), "k: is missing"),
    "k 0": ("topk", config(k=0), "k: is 0"),
    "k too large": ("topk", config(k=300), "k"),
    "groups that are not equal": ("groupmax", config(k=7), "k"),
    "no d_in": ("topk", without("d_in"), "d_in: is missing"),
    "another d_in": ("topk", config(d_in=32), "has shape"),
    "another number of latents": ("topk", config(num_latents=128), "has shape"),
    "latents below 0": ("topk", config(num_latents=-1), "has shape"),
    "transcode of text": ("topk", config(transcode="no"), "transcode"),
    "no encoder": ("topk", no_tensor("encoder.weight"), "'encoder.weight'"),
    "no decoder": ("topk", no_tensor("W_dec"), "'W_dec'"),
    "NaN": ("topk", nan_in("encoder.bias"), "'encoder.bias' holds NaN"),
}
CASES = {"saelens": SAELENS, "sparsify": SPARSIFY}


@pytest.mark.parametrize(("format", "case"), [(format, case) for format, cases in CASES.items() for case in cases])
def test_refused_by_name(format: str, case: str, tmp_path: Path) -> None:
    name, edit, said = CASES[format][case]
    folder = edited(format, name, edit, tmp_path)
    with pytest.raises(CheckpointError) as refused:
        read(format, folder)
    message = str(refused.value)
    assert said in message
    assert str(folder) in message
    assert "\n" not in message


@pytest.mark.parametrize("format", CASES)
def test_control_the_folders_are_read_unless_changed(format: str, tmp_path: Path) -> None:
    for name in {name for name, _, _ in CASES[format].values()}:
        (folder := tmp_path / name.replace(" ->", " to")).mkdir()
        assert read(format, edited(format, name, config(), folder)).sae.d_sae == 256


def codes(sae: Any) -> Tensor:
    return sae.encode_inference(rows(64)).to_dense()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("relu", {}),
        ("relu", {"activation_fn_str": "relu", "normalize_activations": False, "hook_point": SITE}),
        ("topk", {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 8}, "normalize_activations": None}),
        ("topk", {"architecture": "topk", "k": 8}),
        ("jump_relu with pre_bias", {"architecture": "jumprelu"}),
        ("gated", {"architecture": "gated"}),
    ],
)
def test_folders_of_before_version_6(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    def edit(found: dict[str, Any], tensors: Tensors) -> None:
        old(**changes)(found, tensors)
        tensors["scaling_factor"] = torch.ones(256)

    found = read("saelens", edited("saelens", name, edit, tmp_path))
    assert torch.equal(codes(found.sae), codes(made(name)))
    assert (found.source.site, found.source.model) == (SITE, "some/model")


@pytest.mark.parametrize("format", CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_numbers_of_any_width_are_read_as_float32(format: str, dtype: torch.dtype, tmp_path: Path) -> None:
    def edit(_: dict[str, Any], tensors: Tensors) -> None:
        tensors.update({name: value.to(dtype) for name, value in tensors.items()})

    found = read(format, edited(format, "topk", edit, tmp_path)).sae
    assert found.W_enc.dtype == torch.float32
    assert torch.equal(found.W_enc, made("topk").W_enc.to(dtype).float())


def test_sparsifys_defaults(tmp_path: Path) -> None:
    """A coder of the first release: no activation, no transcode, and the latents by their factor."""

    def edit(found: dict[str, Any], _: Tensors) -> None:
        kept = {key: found[key] for key in ("d_in", "k", "normalize_decoder", "multi_topk")}
        found.clear()
        found.update(kept | {"expansion_factor": 4, "signed": False})

    found = read("sparsify", edited("sparsify", "topk", edit, tmp_path))
    assert torch.equal(codes(found.sae), codes(made("topk")))
    assert (found.source.site, found.source.model) == (None, None)


def test_norms_that_rank_are_folded(tmp_path: Path) -> None:
    """SAELens' codes are then pre-activations times the norms, and it decodes what it divides by them."""
    norms = torch.linspace(0.5, 2.0, 256)

    def edit(found: dict[str, Any], tensors: Tensors) -> None:
        found["rescale_acts_by_decoder_norm"] = True
        tensors["W_dec"] *= norms[:, None]

    sae = read("saelens", edited("saelens", "topk", edit, tmp_path)).sae
    plain = made("topk")
    x_BM = rows(64)
    pre_BE = torch.relu((x_BM - plain.b_dec) @ plain.W_enc.T + plain.b_enc) * norms
    kept = torch.zeros_like(pre_BE).scatter(1, (top := pre_BE.topk(8)).indices, top.values)
    torch.testing.assert_close(codes(sae), kept, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        sae.decode(sae.encode_inference(x_BM)), kept @ plain.W_dec + plain.b_dec, rtol=1e-4, atol=1e-3
    )
    assert sae.settings.decoder == "unit"


def test_rows_of_other_norms_are_free(tmp_path: Path) -> None:
    def edit(_: dict[str, Any], tensors: Tensors) -> None:
        tensors["W_dec"][5] *= 1.01

    assert read("saelens", edited("saelens", "relu", edit, tmp_path)).sae.settings.decoder == "free"
