"""Architectures outside the table of families, by module path: planned and exact, or refused with the true reason."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.loading import describe, load
from strata_sae.pipeline.language_model.transformers_library import quiet
from strata_sae.pipeline.settings import ModelSettings
from support.other_architectures import CONFIGS, LAYERS, saved
from support.tiny_models import _save_tokenizer

NOT_CAUSAL: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4, "vocab_size": 300},
    "clip": {},
    "vit": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48},
    "qwen2_vl": {},
}


def hooked(settings: ModelSettings, path: str, token_ids_BS: Tensor) -> Tensor:
    """What a plain hook on the whole, untouched model sees."""
    from transformers import AutoModelForCausalLM

    seen: list[Any] = []
    with quiet(), torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(settings.path, dtype=getattr(torch, settings.dtype)).eval()
        model.get_submodule(path).register_forward_hook(lambda module, args, output: seen.append(output))
        model(input_ids=token_ids_BS, use_cache=False)
    (value,) = seen
    return value[0] if isinstance(value, tuple) else value


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", CONFIGS)
def test_rows_are_those_of_a_plain_hook(model_type: str, dtype: str, tmp_path: Path) -> None:
    saved(tmp_path, model_type)
    settings = ModelSettings(path=str(tmp_path), device="cpu", dtype=dtype)
    layers = LAYERS.get(model_type, "model.layers")
    token_ids_BS = torch.randint(2, 300, (3, 9), generator=torch.Generator().manual_seed(1))
    site, neighbour = f"{layers}.1", f"{layers}.0"
    expected = hooked(settings, site, token_ids_BS)

    assert describe(settings, [site]).widths == {site: 32}
    captured = load(settings, [site]).forward(token_ids_BS)[site]

    assert torch.equal(captured, expected)
    assert not torch.equal(captured, hooked(settings, neighbour, token_ids_BS)), "the control: another layer is seen"


@pytest.mark.parametrize("model_type", NOT_CAUSAL)
def test_what_is_no_causal_language_model_is_refused_in_one_line(model_type: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model(model_type, **NOT_CAUSAL[model_type]).save_pretrained(tmp_path)
    with pytest.raises(ConfigError) as caught:
        describe(ModelSettings(path=str(tmp_path)), ["model.layers.1"])
    assert str(caught.value).startswith(f"model.path: a {model_type} model ")
    assert "is not a causal language model" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_that_makes_no_sense_is_refused_in_one_line(tmp_path: Path) -> None:
    from transformers import AutoConfig

    with quiet():
        AutoConfig.for_model("whisper", d_model=32, vocab_size=300).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"describes a whisper model that cannot be built: \w+: .*[^\n]$"):
        describe(ModelSettings(path=str(tmp_path)), ["model.decoder.layers.1"])


def test_a_model_that_asks_for_more_than_tokens_says_so(tmp_path: Path) -> None:
    """An encoder-decoder's decoder runs alone; what a model's code raises is told as it is."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with quiet():
        config = AutoConfig.for_model("xlnet", d_model=32, n_layer=2, n_head=4, d_inner=48, vocab_size=300)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        _save_tokenizer(tmp_path)
    settings = ModelSettings(path=str(tmp_path), device="cpu", dtype="bfloat16")
    with pytest.raises(
        ConfigError, match=r"a forward pass of XLNetLMHeadModel in bfloat16 fails: RuntimeError: expected"
    ):
        describe(settings, ["transformer.layer.1"])
