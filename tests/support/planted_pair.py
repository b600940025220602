"""A store of two sites whose rows are two images of the same sparse latents, or, as a control, of unrelated ones."""

from pathlib import Path
from typing import Any

import numpy as np

from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.writing.finishing import finish_store
from support.small_run import run_data
from support.small_store import fill_missing, plan_store

READ, WRITTEN = "blocks.1.mlp.input", "blocks.1.hook_mlp_out"
WIDTHS = {READ: 16, WRITTEN: 12}
N_LATENTS, N_ROWS = 20, 4000
SAE = {"architecture": "topk", "d_sae": 40, "k": 3, "pre_bias": False}
TRANSCODER: dict[str, Any] = {
    "reads": [READ],
    "writes": [WRITTEN],
    "sae": {**SAE, "initial": {"encoder": "independent"}},
    "objective": {"reconstruction": {}, "aux_k": {}},
}
CROSSCODER: dict[str, Any] = {"reads": [READ, WRITTEN], "sae": SAE, "objective": TRANSCODER["objective"]}
RELU: dict[str, Any] = {**TRANSCODER, "sae": {**TRANSCODER["sae"], "architecture": "relu"}}
RELU["sae"].pop("k")
RELU["objective"] = {"reconstruction": {}, "l1": {"weight": 0.01}}
ALL = {"transcoder": TRANSCODER, "crosscoder": CROSSCODER, "relu": RELU}


def directions() -> dict[str, np.ndarray]:
    """Each latent's direction of norm 1 at each site: [N_LATENTS, width]."""
    rng = np.random.default_rng(0)
    drawn = {site: rng.standard_normal((N_LATENTS, width)) for site, width in WIDTHS.items()}
    return {site: rows / np.linalg.norm(rows, axis=1, keepdims=True) for site, rows in drawn.items()}


def planted_rows(related: bool = True) -> dict[str, np.ndarray]:
    """float32 rows; those that are read are a hundred times smaller."""
    rng = np.random.default_rng(1)
    codes = rng.uniform(0.5, 1.5, (N_ROWS, N_LATENTS)) * (rng.random((N_ROWS, N_LATENTS)) < 2 / N_LATENTS)
    scales = {READ: 0.1, WRITTEN: 10.0}
    rows = {site: (scales[site] * codes @ unit).astype(np.float32) for site, unit in directions().items()}
    return rows if related else {**rows, WRITTEN: rng.permutation(rows[WRITTEN])}


def planted_store(path: Path, related: bool = True) -> Path:
    plan = plan_store(path, N_ROWS, WIDTHS, chunk_bytes=64 * 16 * 4, shard_bytes=2**24)
    files, rows = FileSystem(), planted_rows(related)
    fill_missing(files, path, plan, rows)
    finish_store(files, path, plan)
    return path


def planted_data(store: Path, variants: dict[str, Any], name: str = "run", **training: Any) -> dict[str, Any]:
    data = run_data(store, variants, name, **{"batch_size": 128, **training})
    data["store"]["sites"] = [*WIDTHS]
    data["evaluation"] = {"example_latents": 1, "examples_per_latent": 2}
    return data
