"""Weights that are not those of their config are refused, at plan and at load; what does not run may be left over."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.loading import describe, load
from strata_sae.pipeline.settings import ModelSettings

SettingsOf = Callable[..., ModelSettings]
SITE = "blocks.1.hook_resid_post"
Tensors = dict[str, Tensor]


def copied(settings: ModelSettings, folder: Path, change: Callable[[Tensors], None], **config: Any) -> ModelSettings:
    """A copy of a model's folder, its tensors and its config.json changed."""
    copy = shutil.copytree(settings.path, folder)
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    content = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps(content | config), encoding="utf-8")
    return ModelSettings(path=str(copy), device="cpu")


def adds(*names: str, shape: tuple[int, ...] = (32,)) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: torch.ones(shape) for name in names})


IN_WHAT_RUNS = {
    "a bias": ("llama", ["model.layers.0.self_attn.q_proj.bias"]),
    "a norm inside attention": ("llama", ["model.layers.1.self_attn.q_norm.weight"]),
    "a norm inside a layer": ("llama", ["model.layers.1.pre_feedforward_layernorm.weight"]),
    "a table of positions": ("llama", ["model.embed_positions.weight"]),
    "a norm of embeddings": ("llama", ["model.embed_layernorm.weight"]),
    "an adapter beside a projection": ("gpt2", ["transformer.h.0.mlp.c_fc.lora_A.weight"]),
}
BESIDE = {
    "a head": ("llama", ["score.weight", "v_head.summary.weight"]),
    "a layer above the site": ("llama", ["model.layers.2.self_attn.q_proj.bias"]),
    "layers that the config does not count": ("llama", ["model.layers.7.self_attn.q_proj.weight"]),
    "a tower for images": ("llama", ["vision_tower.layer.0.weight", "model.vision_tower.layer.0.weight"]),
    "constants of older versions": ("llama", ["model.layers.0.self_attn.rotary_emb.inv_freq"]),
    "prediction of further tokens": ("llama", ["mtp.layers.0.weight", "model.mtp_layers.0.weight"]),
}


@pytest.mark.parametrize("function", [describe, load])
@pytest.mark.parametrize("case", IN_WHAT_RUNS)
def test_tensors_left_over_in_modules_that_run_are_refused_by_name(
    case: str, function: Callable[..., Any], settings_of: SettingsOf, tmp_path: Path
) -> None:
    model_type, names = IN_WHAT_RUNS[case]
    settings = copied(settings_of(model_type), tmp_path / "m", adds(*names))
    with pytest.raises(ConfigError) as caught:
        function(settings, [SITE])
    assert all(name in str(caught.value) for name in names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", BESIDE)
def test_tensors_of_parts_that_do_not_run_may_be_left_over(case: str, settings_of: SettingsOf, tmp_path: Path) -> None:
    model_type, names = BESIDE[case]
    settings = copied(settings_of(model_type), tmp_path / "m", adds(*names))
    describe(settings, [SITE])
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(
        load(settings, [SITE]).forward(ids)[SITE], load(settings_of(model_type), [SITE]).forward(ids)[SITE]
    )


def test_a_causal_mask_that_was_saved_is_no_bias(tmp_path: Path) -> None:
    from transformers import GPTJConfig, GPTJForCausalLM

    GPTJForCausalLM(GPTJConfig(vocab_size=20, n_embd=16, n_layer=1, n_head=2, rotary_dim=4)).save_pretrained(
        tmp_path / "j"
    )
    plain = ModelSettings(path=str(tmp_path / "j"), device="cpu")
    mask, bias = "transformer.h.0.attn.bias", "transformer.h.0.attn.out_proj.bias"
    load(copied(plain, tmp_path / "mask", adds(mask, shape=(1, 1, 8, 8))), ["transformer.h.0"])
    with pytest.raises(ConfigError, match=r"out_proj\.bias"):
        load(copied(plain, tmp_path / "bias", adds(bias, shape=(16,))), ["transformer.h.0"])


@pytest.mark.parametrize("function", [describe, load])
def test_biases_that_the_config_denies_are_refused(
    function: Callable[..., Any], settings_of: SettingsOf, tmp_path: Path
) -> None:
    """A config.json that says `attention_bias: false` beside weights with biases: rows of another model."""
    names = [f"model.layers.{layer}.self_attn.{name}_proj.bias" for layer in range(3) for name in "qkvo"]
    sizes = {"q": 32, "k": 16, "v": 16, "o": 32}

    def add(tensors: Tensors) -> None:
        tensors.update({name: torch.randn(sizes[name.split(".")[4][0]]) for name in names})

    denied = copied(settings_of("llama"), tmp_path / "denied", add, attention_bias=False)
    with pytest.raises(ConfigError, match=r"hold 8 tensors .*layers\.0\.self_attn\.k_proj\.bias.*another model's"):
        function(denied, [SITE])
    function(copied(settings_of("llama"), tmp_path / "right", add, attention_bias=True), [SITE])


@pytest.mark.parametrize("function", [describe, load])
def test_missing_tensors_are_refused_at_plan_too(
    function: Callable[..., Any], settings_of: SettingsOf, tmp_path: Path
) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    settings = copied(settings_of("llama"), tmp_path / "m", lambda tensors: tensors.__delitem__(name))
    with pytest.raises(ConfigError, match=r"lack 1 tensors .*layers\.1\.mlp\.down_proj\.weight"):
        function(settings, [SITE])
    function(settings, ["blocks.0.hook_resid_post"])  # below the hole nothing is missing


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_declared_one_that_are_two(dtype: str, settings_of: SettingsOf, tmp_path: Path) -> None:
    def two(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0).contiguous()

    def same(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    tied = {"tie_word_embeddings": True}
    settings = copied(settings_of("llama"), tmp_path / "two", two, **tied).model_copy(update={"dtype": dtype})
    with pytest.raises(ConfigError, match=r"lm_head\.weight and model\.embed_tokens\.weight to be one tensor"):
        load(settings, ["lm_head"])
    load(settings, [SITE])  # the head does not run
    load(copied(settings_of("llama"), tmp_path / "same", same, **tied), ["lm_head"])


def test_the_report_of_loading_is_read_whole(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every list that transformers reports is judged: a new one must be placed here first."""
    from transformers import PreTrainedModel

    plain = PreTrainedModel.from_pretrained.__func__

    def reports_an_error(cls: type, *args: Any, **kwargs: Any) -> Any:
        model, info = plain(cls, *args, **kwargs)
        assert set(info) == {"missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"}
        return model, info | {"error_msgs": ["a tensor that could not be converted"]}

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(reports_an_error))
    with pytest.raises(ConfigError, match="loading the weights reported: a tensor that could not be converted"):
        load(settings_of("llama"), [SITE])
