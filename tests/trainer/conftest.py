from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config import RunConfig
from stores.filesystem import FileSystem
from stores.finishing import finish
from stores.planning import create_store
from stores.units import UnitWriter

SITE = "blocks.1.hook_resid_post"
OTHER_SITE = "blocks.2.hook_resid_post"
D_MODEL = 16
N_ROWS = 4096
N_FEATURES = 48


def planted_rows(n_rows: int, d_model: int, seed: int) -> np.ndarray:
    """Sparse combinations of a fixed dictionary, off-centre and with a norm of about 10."""
    random = np.random.default_rng(seed)
    dictionary = random.normal(size=(N_FEATURES, d_model))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    codes = random.exponential(size=(n_rows, N_FEATURES)) * (random.random((n_rows, N_FEATURES)) < 4 / N_FEATURES)
    noise = random.normal(size=(n_rows, d_model)) * 0.05
    return (5.0 * codes @ dictionary + noise + random.normal(size=d_model)).astype(np.float32)


def write_store(path: Path, *, seed: int = 0, n_rows: int = N_ROWS) -> None:
    """A finished float32 store of two sites, documents of 64 rows with a BOS each, the last tenth held out."""
    position = np.arange(n_rows, dtype=np.int32) % 64
    tokens = {
        "token_id": position,
        "document": np.arange(n_rows, dtype=np.int64) // 64,
        "position": position,
        "flags": (position == 0).astype(np.uint8),
    }
    heldout = n_rows * 9 // 10 // 64 * 64
    plan = create_store(
        path,
        iter([tokens]),
        {token: f" t{token}" for token in range(64)},
        n_rows=n_rows,
        n_documents=-(-n_rows // 64),
        splits={"train": (0, heldout), "heldout": (heldout, n_rows)},
        sites={SITE: D_MODEL, OTHER_SITE: D_MODEL},
        encoding="float32",
        compressor="none",
        rows_per_chunk=64,
        rows_per_unit=n_rows,
        config={},
        provenance={"seed": seed},
    )
    writer = UnitWriter(FileSystem(), path, plan, 0, tokens["flags"])
    for number, site in enumerate(plan.sites):
        writer.append(site, planted_rows(n_rows, D_MODEL, seed + 100 * number))
    writer.commit()
    finish(FileSystem(), path, plan)


TOPK = {
    "sae": {"architecture": "topk", "d_sae": 64, "k": 4},
    "objective": {"reconstruction": {}, "aux_k": {}},
}
BATCH_TOPK = {
    "sae": {"architecture": "batch_topk", "d_sae": 64, "k": 4},
    "objective": {
        "prefix_reconstruction": {},
        "aux_k": {},
        "orthogonality": {"weight": 0.01, "threshold_momentum": 0.9},
    },
}
RELU = {"sae": {"architecture": "relu", "d_sae": 64}, "objective": {"reconstruction": {}, "l1": {"weight": 0.05}}}


def run_data(store: Path, variants: dict[str, Any], name: str = "run", **training: Any) -> dict[str, Any]:
    return {
        "name": name,
        "model": {"path": "none"},
        "corpus": {"sources": [{"kind": "python_docs"}], "n_tokens": N_ROWS},
        "store": {"path": str(store), "sites": [SITE, OTHER_SITE]},
        "training": {
            "sites": [SITE],
            "n_steps": 60,
            "batch_size": 64,
            "window_rows": 1024,
            "learning_rate": 3e-3,
            "warmup_steps": 5,
            "dead_after_tokens": 200,
            "calibration_rows": 1024,
            "log_every_steps": 5,
            "checkpoint_every_steps": 10,
            "device": "cpu",
            **training,
        },
        "variants": variants,
    }


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "tiny"
    write_store(path)
    return path


@pytest.fixture
def make_config(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Builds configs over the tiny store; `runs/` lies in a fresh folder."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)

    def make(variants: dict[str, Any], name: str = "run", store: Path = store, **training: Any) -> RunConfig:
        return RunConfig.model_validate(run_data(store, variants, name, **training))

    return make
