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
from support.tiny_models import _save_tokenizer

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 300,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_GATED = _SIZES | {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
_EXPERTS = _GATED | {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
}
_LATENT = _SIZES | {
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "moe_intermediate_size": 24,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
}
_LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "mixtral": _EXPERTS,
    "qwen2_moe": _EXPERTS,
    "qwen3_moe": _EXPERTS,
    "olmoe": _EXPERTS,
    "gpt_oss": _EXPERTS | {"sliding_window": 4},
    "granitemoe": _EXPERTS,
    "phimoe": _EXPERTS,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "jamba": _GATED | {"num_experts": 2},
    "qwen3_next": _EXPERTS | _LINEAR,
    "mamba2": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "vocab_size": 300,
        "state_size": 4,
        "num_heads": 8,
        "head_dim": 8,
        "n_groups": 1,
    },
    "recurrent_gemma": _GATED | {"lru_width": 32, "attention_window_size": 4},
    "bart": {
        "d_model": 32,
        "decoder_layers": 3,
        "encoder_layers": 2,
        "decoder_attention_heads": 2,
        "encoder_attention_heads": 2,
        "decoder_ffn_dim": 48,
        "encoder_ffn_dim": 48,
        "vocab_size": 300,
        "max_position_embeddings": 64,
        "pad_token_id": 1,
    },
}
LAYERS = {"mamba2": "backbone.layers", "bart": "model.decoder.layers"}
NOT_CAUSAL: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4, "vocab_size": 300},
    "clip": {},
    "vit": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48},
    "qwen2_vl": {},
}


def saved(folder: Path, model_type: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **CONFIGS[model_type]))
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
        model.save_pretrained(folder)
        _save_tokenizer(folder)


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
