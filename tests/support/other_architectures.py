"""Architectures outside the table of families: tiny random models, saved as `save_pretrained` saves real ones."""

from pathlib import Path
from typing import Any

import torch

from strata_sae.pipeline.language_model.transformers_library import quiet
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


def saved(folder: Path, model_type: str) -> None:
    """A float32 model of random weights, and a tokenizer, in `folder`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **CONFIGS[model_type]))
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
        model.save_pretrained(folder)
        _save_tokenizer(folder)
