"""Small training runs over a small store, shared by the tests and the process that the kill test kills."""

from pathlib import Path
from typing import Any

from support.small_store import build_store

SITE = "blocks.1.hook_resid_post"
D_MODEL = 16

TOPK = {"sae": {"architecture": "topk", "d_sae": 64, "k": 4}, "objective": {"reconstruction": {}, "aux_k": {}}}
BATCH_TOPK = {
    "sae": {"architecture": "batch_topk", "d_sae": 64, "k": 4},
    "objective": {
        "prefix_reconstruction": {},
        "aux_k": {},
        "orthogonality": {"weight": 0.01, "threshold_momentum": 0.9, "threshold": {"start": 0.2, "end": 0.0}},
    },
}
RELU = {"sae": {"architecture": "relu", "d_sae": 64}, "objective": {"reconstruction": {}, "l1": {"weight": 0.05}}}
ALL = {"topk": TOPK, "batch": BATCH_TOPK, "relu": RELU}


def store_for_training(path: Path, n_rows: int = 4000) -> Path:
    """A finished store of one unit, in chunks of 64 rows."""
    return build_store(path, n_rows, {SITE: D_MODEL}, chunk_bytes=64 * D_MODEL * 4, shard_bytes=2**24)


def run_data(store: Path, variants: dict[str, Any], name: str = "run", **training: Any) -> dict[str, Any]:
    """What a config file would hold: 60 steps, 12 of them logged, a checkpoint every 10."""
    return {
        "name": name,
        "model": {"path": "none"},
        "corpus": {"sources": [{"kind": "python_docs"}], "n_tokens": 4000},
        "store": {"path": str(store), "sites": [SITE]},
        "training": {
            "n_steps": 60,
            "batch_size": 64,
            "window_rows": 1024,
            "learning_rate": 3e-3,
            "warmup_steps": min(5, training.get("n_steps", 60) * 4 // 5),
            "dead_after_rows": 150,
            "calibration_rows": 1024,
            "log_every_steps": 5,
            "checkpoint_every_steps": 10,
            "device": "cpu",
            **training,
        },
        "variants": variants,
    }
