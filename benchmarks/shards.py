"""What an SAE costs that ranks of torchrun hold together: seconds a step, and bytes that a rank sends.

    python benchmarks/shards.py

Each number of ranks is one launch of torchrun on this machine, with as many threads in all each time. Steps are those
of the trainer, on made-up rows, without reading and logging. `again`: rows whose first offer was too short, a step.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.toy import sized
from strata_sae.pipeline.config.training import TrainingSettings
from strata_sae.pipeline.config.variants import Variant
from strata_sae.pipeline.saes import initial_weights
from strata_sae.pipeline.saes.base import Workspace
from strata_sae.pipeline.sharding import cut
from strata_sae.pipeline.sharding.ranks import Ranks
from strata_sae.pipeline.sharding.torchrun import ranks_here
from strata_sae.pipeline.trainer.trainee import Trainee

E, M, B, K = sized(16384, 256), sized(768, 32), sized(2048, 64), sized(64, 8)
N_STEPS, N_RANKS = sized(5, 2), (1, 2)
CASES = {
    "topk, short offers": ("topk", False),
    "topk, whole offers": ("topk", True),
    "batch_topk": ("batch_topk", False),
}


def measure(ranks: Ranks, architecture: str, whole_offers: bool) -> dict[str, float]:
    """The median step of a case, and what it sent."""
    data = {"sae": {"architecture": architecture, "d_sae": E, "k": K}, "objective": {"reconstruction": {}}}
    variant = Variant.model_validate(data)
    settings = TrainingSettings(n_steps=N_STEPS + 1, batch_size=B, warmup_steps=0)
    weights = initial_weights(variant.sae, M, torch.Generator().manual_seed(0), None, ranks)
    trainee = Trainee(variant, variant.resolved(settings), weights, Workspace(), ranks=ranks)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(B, M, generator=generator) / M**0.5
    short = cut.offered
    if whole_offers:
        cut.offered = lambda k, n: k
    trainee.update(rows)  # the first one compiles
    ranks.sent.gathered_bytes = ranks.sent.reduced_bytes = ranks.sent.rows_again = 0
    seconds = []
    for _ in range(N_STEPS):
        began = time.perf_counter()
        trainee.update(rows)
        seconds.append(time.perf_counter() - began)
    cut.offered = short
    sent = ranks.sent
    return {
        "seconds": sorted(seconds)[N_STEPS // 2],
        "sent_bytes": sent.bytes_of_rank(ranks.n) / N_STEPS,
        "gathered_bytes": (ranks.n - 1) * sent.gathered_bytes / N_STEPS,
        "again": sent.rows_again / N_STEPS,
    }


def launched(n: int, folder: Path) -> dict[str, dict[str, float]]:
    """What so many ranks measure."""
    path = folder / f"{n}.json"
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), __file__]
    threads = max(1, (os.cpu_count() or 1) // n)
    subprocess.run([*words, str(path)], env={**os.environ, "OMP_NUM_THREADS": str(threads)}, check=True)
    found: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> None:
    print(f"d_sae {E:,}, d_model {M}, batch {B:,}, k {K}; {os.cpu_count()} processors; gloo")
    with tempfile.TemporaryDirectory() as folder:
        for n in N_RANKS:
            for name, found in launched(n, Path(folder)).items():
                offers, again = found["gathered_bytes"] / 1e6, found["again"]
                print(
                    f"n {n} {name:20} {found['seconds'] * 1e3:8.1f} ms a step, {found['sent_bytes'] / 1e6:7.2f} MB a "
                    f"rank and step, of them {offers:.3f} MB offers; {again:.1f} rows again"
                )


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        with ranks_here(torch.device("cpu")) as here:
            results = {name: measure(here, *case) for name, case in CASES.items()}
        if here.rank == 0:
            Path(sys.argv[1]).write_text(json.dumps(results), encoding="utf-8")
