"""A run folder with hand-made SAEs, as the trainer would leave it."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.record_files import write_record
from support.made_up_records import curve_line, ending, sae_record, write_lines

SITE = "blocks.1.hook_resid_post"
D_MODEL = 16


def identity_weights(scale: float = 1.0) -> dict[str, Tensor]:
    """A ReLU SAE of 2 M latents with xhat = scale * x exactly: one latent for each direction and sign."""
    both_EM = torch.cat([torch.eye(D_MODEL), -torch.eye(D_MODEL)])
    return {
        "W_enc": both_EM,
        "W_dec": scale * both_EM,
        "b_enc": torch.zeros(2 * D_MODEL),
        "b_dec": torch.zeros(D_MODEL),
    }


def random_weights(d_sae: int, seed: int, threshold: float | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    W_dec = torch.nn.functional.normalize(torch.randn(d_sae, D_MODEL, generator=generator), dim=1)
    biases = {"b_enc": torch.full((d_sae,), -0.3), "b_dec": torch.full((D_MODEL,), 0.3)}
    weights = {"W_enc": W_dec.clone(), "W_dec": W_dec, **biases}
    return weights if threshold is None else {**weights, "threshold": torch.tensor(threshold, dtype=torch.float64)}


def write_trained(
    run: Path, name: str, store_id: str, sae: dict[str, Any], weights: dict[str, Tensor], *, diverged: bool = False
) -> None:
    """What the trainer leaves of one SAE, as far as scores need it."""
    folder = RunFolder(run).variant(f"{name}@{SITE}")
    record = sae_record(name, SITE, sae, d_out=D_MODEL, store_id=store_id)
    write_record(folder.config, record)
    safetensors.torch.save_file(weights, folder.weights)
    write_lines(folder.curves, [curve_line(1)])
    write_record(folder.training, ending(folder, record, n_steps=1, diverged_at_step=1 if diverged else None))


def config_data(store: Path, evaluation: dict[str, Any], filters: dict[str, Any]) -> dict[str, Any]:
    variant = {"sae": {"architecture": "relu", "d_sae": 4}, "objective": {"reconstruction": {}, "l1": {"weight": 0.1}}}
    return {
        "name": "run",
        "model": {"path": "none"},
        "corpus": {"sources": [{"kind": "python_docs"}], "n_tokens": 1000},
        "store": {"path": str(store), "sites": [SITE]},
        "training": {"n_steps": 1, "warmup_steps": 0, "device": "cpu", "filters": filters},
        "variants": {"any": variant},
        "evaluation": {
            "batch_size": 100,
            "context_tokens": 5,
            "example_latents": 3,
            "examples_per_latent": 4,
            **evaluation,
        },
    }
