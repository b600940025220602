"""Tiny random models of every family, saved as `save_pretrained` saves real ones."""

from pathlib import Path
from typing import Any

import torch

N_LAYERS = 3
D_MODEL = 32
D_MLP = 48
VOCABULARY = 300
_COMMON = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_GATED = _COMMON | {"intermediate_size": D_MLP, "num_key_value_heads": 2, "head_dim": 8}
_WINDOWED = _GATED | {"sliding_window": 4}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "n_embd": D_MODEL,
        "n_layer": N_LAYERS,
        "n_head": 4,
        "n_inner": D_MLP,
        "vocab_size": VOCABULARY,
        "n_positions": 64,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "gpt_neox": _COMMON | {"intermediate_size": D_MLP},
    "llama": _GATED,
    "mistral": _WINDOWED,
    "qwen2": {name: value for name, value in _GATED.items() if name != "head_dim"},
    "qwen3": _GATED,
    "gemma": _GATED,
    "gemma2": _WINDOWED,
    "gemma3_text": _WINDOWED,
    "gemma3": {
        "text_config": _WINDOWED | {"model_type": "gemma3_text"},
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        "mm_tokens_per_image": 4,
    },
    # As OPT-350M: embeddings narrower than the model.
    "opt": _COMMON | {"ffn_dim": D_MLP, "word_embed_proj_dim": 16},
}


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the capital of the town of the king"] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|end|>", eos_token="<|end|>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)


def save_tiny_model(folder: Path, model_type: str) -> Path:
    """A float32 model of random weights, and a tokenizer, in `folder`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from strata_sae.pipeline.language_model.transformers_library import quiet

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **CONFIGS[model_type])
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        # Norm scales begin at one or zero everywhere, which would hide a hook on the wrong side of a norm.
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
        model.save_pretrained(folder)
        _save_tokenizer(folder)
    return folder
