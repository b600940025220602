"""Eight variants in one pass over a store, against eight runs of one variant each: the same SAEs, bit for bit.

    python benchmarks/variants.py

Wall time of `train`, both ways in turn, on a made-up store of float32 rows as wide as seed 003's (4096; 256 latents),
and how many batches are read. On a CPU the arithmetic does not shrink: what is saved is reading, mixing, scaling and
starting, a share that falls as SAEs grow. Exit code 1 if one pass takes more than 0.95 of the eight runs, or if a bit
differs.
"""

import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.toy import met, sized
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.trainer.train import train
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.writing.finishing import finish_store

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.small_store import fill_missing, plan_store

SITE = "blocks.1.hook_resid_post"
D_MODEL, D_SAE, BATCH, N_STEPS, N_ROWS, N_VARIANTS = sized((4096, 256, 512, 50, 2**14, 8), (64, 256, 512, 5, 2**12, 3))
ROUNDS = sized(2, 1)
ALLOWED = 0.95


def config(store: Path, name: str, variants: dict[str, Any]) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": name,
            "model": {"path": "none"},
            "corpus": {"sources": [{"kind": "python_docs"}], "n_tokens": N_ROWS},
            "store": {"path": str(store), "sites": [SITE]},
            "training": {
                "n_steps": N_STEPS,
                "batch_size": BATCH,
                "warmup_steps": 0,
                "calibration_rows": BATCH,
                "checkpoint_every_steps": N_STEPS,
                "device": "cpu",
            },
            "variants": variants,
        }
    )


def build_store(path: Path) -> Path:
    """A finished store of directions and noise."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((256, D_MODEL), dtype=np.float32)
    rows = directions[rng.integers(0, 256, N_ROWS)] + rng.standard_normal((N_ROWS, D_MODEL), dtype=np.float32)
    plan = plan_store(path, N_ROWS, {SITE: D_MODEL}, chunk_bytes=2**21, shard_bytes=2**28)
    fill_missing(FileSystem(), path, plan, {SITE: rows})
    finish_store(FileSystem(), path, plan)
    return path


def seconds(configs: list[RunConfig]) -> tuple[float, float]:
    """Wall and processor time of training them all."""
    began, used = time.perf_counter(), time.process_time()
    for one in configs:
        train(one, show_progress=False)
    return time.perf_counter() - began, time.process_time() - used


def batches_served(names: list[str]) -> int:
    lines = [line for name in names for line in (Path("runs") / name / "loader" / f"{SITE}.jsonl").open()]
    return sum(json.loads(line)["steps"] for line in lines)


def hashes(names: list[str]) -> dict[str, Any]:
    folders = [folder for name in names for folder in RunFolder(Path("runs") / name).trained()]
    return {folder.variant: json.loads(folder.training.read_text())["sha256"] for folder in folders}


def main() -> int:
    variants = {
        f"topk_{k}": {"sae": {"architecture": "topk", "d_sae": D_SAE, "k": k}, "objective": {"reconstruction": {}}}
        for k in range(4, 4 + N_VARIANTS)
    }
    together, apart = [], []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        store = build_store(Path("store").resolve())
        for number in range(ROUNDS):
            together.append(seconds([config(store, f"all{number}", variants)]))
            alone = {f"{name}-{number}": {name: variant} for name, variant in variants.items()}
            apart.append(seconds([config(store, name, variant) for name, variant in alone.items()]))
        same = hashes([f"all{ROUNDS - 1}"]) == hashes(list(alone))
        served = batches_served(["all0"]), batches_served([f"{name}-0" for name in variants])
    ratio = min(together)[0] / min(apart)[0]
    print(f"{N_VARIANTS} TopK variants, M {D_MODEL}, E {D_SAE}, B {BATCH}, {N_STEPS} steps")
    for title, times, n_batches in (("one pass", together, served[0]), (f"{N_VARIANTS} runs", apart, served[1])):
        shown = ", ".join(f"{wall:.2f} s (CPU {used:.2f})" for wall, used in times)
        print(f"  {title:10s} {shown}; {n_batches} batches read")
    print(f"  ratio of the shortest {ratio:.3f} (allowed: {ALLOWED}); weights, curves and states equal: {same}")
    return int(not same or not met(ratio <= ALLOWED))


if __name__ == "__main__":
    sys.exit(main())
