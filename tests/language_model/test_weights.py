"""The layers above the deepest site are not read, and what is left equals a model that was read whole in every bit."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from strata_sae.pipeline.language_model import weights
from strata_sae.pipeline.language_model.capture import Capture
from strata_sae.pipeline.language_model.loading import load
from strata_sae.pipeline.settings import ModelSettings
from support.other_architectures import CONFIGS as OTHERS
from support.other_architectures import LAYERS, saved
from support.tiny_models import CONFIGS as FAMILIES

SettingsOf = Callable[..., ModelSettings]
IDS_BS = torch.arange(2, 26).reshape(2, 12)
READ_WHOLE = "all weights are read, also those above the deepest site"


def read_whole(settings: ModelSettings, site: str, monkeypatch: pytest.MonkeyPatch) -> Capture:
    """The model as it was loaded before: all weights are read, then what lies above the site is cut off."""
    with monkeypatch.context() as patched:
        patched.setattr(weights, "_why_whole", lambda *_: "for comparison")
        return load(settings, [site])


def state(capture: Capture) -> dict[str, torch.Tensor]:
    """Every tensor by its name, buffers that are not saved among them."""
    return capture.model.state_dict() | dict(capture.model.named_buffers())


def same(one: Capture, other: Capture, site: str) -> bool:
    """Whether class, modules, every tensor and the rows are equal."""
    tensors, others = state(one), state(other)
    rows = [capture.forward(IDS_BS)[site] for capture in (one, other)]
    return (
        type(one.model) is type(other.model)
        and list(tensors) == list(others)
        and all(tensors[name].dtype == others[name].dtype for name in tensors)
        and all(torch.equal(tensors[name], others[name]) for name in tensors)
        and [name for name, _ in one.model.named_modules()] == [name for name, _ in other.model.named_modules()]
        and [tensor.requires_grad for tensor in one.model.parameters()]
        == [tensor.requires_grad for tensor in other.model.parameters()]
        and torch.equal(*rows)
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_families_are_the_model_that_was_read_whole(
    model_type: str,
    dtype: str,
    settings_of: SettingsOf,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings, site = settings_of(model_type, dtype=dtype), "blocks.1.hook_resid_pre"
    found = load(settings, [site])
    assert READ_WHOLE not in caplog.text
    whole = read_whole(settings, site, monkeypatch)
    assert caplog.text.count(READ_WHOLE) == 1
    assert same(found, whole, site)
    with torch.no_grad():
        next(found.model.parameters()).view(-1)[0] += 1
    assert not same(found, whole, site), "the control: one number is another"


@pytest.mark.parametrize("model_type", OTHERS)
def test_other_architectures_are_too(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, model_type)
    settings = ModelSettings(path=str(tmp_path), device="cpu", dtype="bfloat16")  # each tensor is converted
    site = f"{LAYERS.get(model_type, 'model.layers')}.1"
    found = load(settings, [site])
    assert READ_WHOLE not in caplog.text
    assert same(found, read_whole(settings, site, monkeypatch), site)


@pytest.fixture
def read_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tensors whose numbers are read from the files from now on, in any order."""
    names: list[str] = []
    plain = weights._stored

    class Watched:
        def __init__(self, name: str, tensor: torch.Tensor) -> None:
            self.name, self.tensor = name, tensor

        def __getitem__(self, index: Any) -> torch.Tensor:
            names.append(self.name)
            return self.tensor[index]

    @contextmanager
    def watching(*args: Any) -> Iterator[dict[str, Any]]:
        with plain(*args) as tensors:
            yield {name: Watched(name, tensor) for name, tensor in tensors.items()}

    monkeypatch.setattr(weights, "_stored", watching)
    return names


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_tensors_up_to_the_site_are_read_each_once(
    dtype: str, settings_of: SettingsOf, read_names: list[str]
) -> None:
    settings = settings_of("llama", dtype=dtype)
    stored = load_file(Path(settings.path) / "model.safetensors").keys()
    load(settings, ["blocks.0.hook_resid_post"])
    below = {name for name in stored if name.startswith(("model.embed_tokens", "model.layers.0."))}
    assert sorted(read_names) == sorted(below)
    read_names.clear()
    load(settings, ["blocks.2.hook_resid_post"])  # the control: all of them are seen where they are needed
    assert sorted(read_names) == sorted(stored - {"model.norm.weight", "lm_head.weight"})


def test_of_an_expert_per_tensor_those_of_the_layers_that_run_are_read(tmp_path: Path, read_names: list[str]) -> None:
    saved(tmp_path, "mixtral")
    stored = load_file(tmp_path / "model.safetensors").keys()
    load(ModelSettings(path=str(tmp_path), device="cpu"), ["model.layers.0"])
    assert {"experts" in name for name in read_names} == {True, False}
    assert sorted(read_names) == sorted(
        name for name in stored if name.startswith(("model.embed_tokens", "model.layers.0."))
    )


def in_another_form(settings: ModelSettings, folder: Path, form: str) -> ModelSettings:
    shutil.copytree(settings.path, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = load_file(Path(settings.path) / "model.safetensors")
    if form == "pickled":
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        shards = {name: f"model-{number % 3}.safetensors" for number, name in enumerate(tensors)}
        for shard in set(shards.values()):
            save_file({name: tensors[name] for name in tensors if shards[name] == shard}, folder / shard)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}), encoding="utf-8")
    return settings.model_copy(update={"path": str(folder)})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", ["pickled", "shards"])
def test_files_of_other_forms(
    form: str,
    dtype: str,
    settings_of: SettingsOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings, site = settings_of("qwen3", dtype=dtype), "blocks.1.mlp.hook_post"
    found = load(in_another_form(settings, tmp_path / form, form), [site])
    assert READ_WHOLE not in caplog.text
    assert same(found, read_whole(settings, site, monkeypatch), site)


@pytest.mark.parametrize("kept", ["model.embed_tokens.weight", "lm_head.weight"])
def test_either_name_of_tied_embeddings_will_do(
    kept: str, settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may hold only the copy, which lies above the site: then it is read for the embeddings."""
    folder = Path(shutil.copytree(settings_of("llama").path, tmp_path / "tied"))
    tensors = load_file(folder / "model.safetensors")
    table = tensors.pop("model.embed_tokens.weight")
    save_file(tensors | {kept: table}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if kept == "model.embed_tokens.weight":
        tensors.pop("lm_head.weight")
        save_file(tensors | {kept: table}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}), encoding="utf-8")
    settings, site = ModelSettings(path=str(folder), device="cpu"), "blocks.1.hook_resid_post"
    found = load(settings, [site])
    assert torch.equal(found.model.get_input_embeddings().weight, table)
    assert same(found, read_whole(settings, site, monkeypatch), site)


def test_with_the_head_all_is_read_as_before(
    settings_of: SettingsOf, read_names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    whole = load(settings_of("gpt2"), ["blocks.0.hook_resid_post"], whole=True)
    assert whole.run(IDS_BS).logits_BSV.shape == (2, 12, 300)
    assert len(whole.model.get_submodule("transformer.h")._modules) == 3
    assert (read_names, READ_WHOLE in caplog.text) == ([], False)


def _adapter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")


def _own_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "__module__", "somewhere.modeling_llama")


def _quantised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = weights._why_whole

    def told(folder: Path, config: Any, found: Any) -> str | None:
        config.quantization_config = {"quant_method": "gptq"}
        try:
            return plain(folder, config, found)
        finally:
            del config.quantization_config

    monkeypatch.setattr(weights, "_why_whole", told)


def _needs_its_head(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaForCausalLM

    plain = LlamaForCausalLM._init_weights

    def init(model: Any, module: Any) -> None:
        assert model.lm_head is not None
        plain(model, module)

    monkeypatch.setattr(LlamaForCausalLM, "_init_weights", init)


HINDRANCES = {
    "adapter_config.json names an adapter": _adapter,
    "LlamaForCausalLM is code of its own": _own_code,
    "they are quantised": _quantised,
    "AttributeError: 'LlamaForCausalLM' object has no attribute 'lm_head'": _needs_its_head,
}


@pytest.mark.parametrize("reason", HINDRANCES)
def test_where_it_cannot_be_all_is_read_and_one_line_says_why(
    reason: str,
    settings_of: SettingsOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = "blocks.1.hook_resid_post"
    expected = load(settings_of("llama"), [site])
    folder = Path(shutil.copytree(settings_of("llama").path, tmp_path / "llama"))
    HINDRANCES[reason](folder, monkeypatch)
    with caplog.at_level(logging.WARNING):
        found = load(ModelSettings(path=str(folder), device="cpu"), [site])
    (line,) = [message for message in caplog.messages if READ_WHOLE in message]
    assert line.startswith("model.path: llama: ")
    assert reason in line
    assert "\n" not in line
    assert same(found, expected, site)
