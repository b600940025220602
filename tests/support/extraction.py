"""A small real extraction: a tiny random model reads a few text files."""

from pathlib import Path
from typing import Any

from strata_sae.pipeline.config.run import ExtractConfig
from support.tiny_models import save_tiny_model

SITES = ["blocks.0.hook_resid_post", "blocks.1.mlp.hook_post"]


def write_corpus(folder: Path, n_documents: int = 40) -> str:
    """Text files of uneven length. Returns: a glob pattern."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n_documents):
        words = [f"the king of town {number} word {word * number % 7}" for word in range(2 + number * 5 % 11)]
        (folder / f"{number:03d}.txt").write_text(" ".join(words), encoding="utf-8")
    return str(folder / "*.txt")


def extraction_config(folder: Path, *, model_type: str = "llama", **changes: Any) -> ExtractConfig:
    """A config whose store, model and text all lie under `folder`; `changes` are `section={key: value}`."""
    model = folder / f"model-{model_type}"
    if not model.is_dir():
        save_tiny_model(model, model_type)
        write_corpus(folder / "text")
    sections: dict[str, Any] = {
        "name": "small",
        "model": {"path": str(model), "device": "cpu", "batch_tokens": 128},
        "corpus": {
            "sources": [{"kind": "text", "paths": [str(folder / "text" / "*.txt")]}],
            "n_tokens": 3000,
            "context_length": 32,
        },
        "store": {
            "path": str(folder / "store"),
            "sites": SITES,
            "encoding": "float32",
            "chunk_bytes": 4096,
            "shard_bytes": 65536,
        },
        "training": {"n_steps": 10, "warmup_steps": 0, "batch_size": 64},
        "variants": {
            "topk": {"sae": {"architecture": "topk", "d_sae": 64, "k": 4}, "objective": {"reconstruction": {}}}
        },
    }
    for section, values in changes.items():
        sections[section] = sections.get(section, {}) | values
    return ExtractConfig.model_validate(sections)
