"""What k-sparse probes of one SAE on one task cost, rows stored: processor time, all seeds.

    python benchmarks/probing.py

Rows, labels and SAE are made up: 600 texts of which numbers of the row know the label, E 2304 latents, of which about
32 are active; k 1 and 16, 5 seeds, so 110 logistic regressions. Codes are computed anew each time. The probe on the raw
rows, which all SAEs of a site share, is measured apart. No language model is loaded. Importing scikit-learn, once a
process, is left out. Exit code 1 if an SAE and task take more than a second of processor time.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.toy import met, sized
from strata_sae.pipeline.evaluation.probing.classifier import probe, ranked
from strata_sae.pipeline.evaluation.probing.drawing import FIRST_SEED, of_texts

N_TEXTS, D_MODEL, D_SAE, K = sized((600, 576, 2304, 32), (300, 32, 128, 8))
N_SEEDS, KS = sized(5, 2), (1, 16)
ROUNDS = sized(3, 1)
TARGET_SECONDS = 1.0


def made_up() -> tuple[np.ndarray, np.ndarray]:
    """Rows off-centre with a few large numbers, as a residual stream has them, and labels."""
    rng = np.random.default_rng(0)
    y_N = np.tile([0, 1], N_TEXTS // 2).astype(np.int8)
    x_NM = rng.standard_normal((N_TEXTS, D_MODEL)).astype(np.float32) * rng.lognormal(0, 1, D_MODEL).astype(np.float32)
    x_NM += y_N[:, None] * rng.standard_normal(D_MODEL).astype(np.float32) * 0.3 + 1.0
    return x_NM, y_N


def encoded(x_NM: np.ndarray, W_EM: torch.Tensor) -> torch.Tensor:
    """Codes of a TopK SAE."""
    pre_NE = torch.from_numpy(x_NM) @ W_EM.T
    top = pre_NE.topk(K)
    return torch.zeros_like(pre_NE).scatter(1, top.indices, top.values.relu())


def probes(codes_NE: torch.Tensor, y_N: np.ndarray) -> None:
    """Of all k and seeds."""
    for seed in range(FIRST_SEED, FIRST_SEED + N_SEEDS):
        train, test = of_texts(y_N, seed)
        order = ranked(codes_NE[train], y_N[train])
        for k in KS:
            x_NK = codes_NE[:, order[:k]].numpy()
            probe(x_NK[train], y_N[train], x_NK[test], y_N[test], seed)


def main() -> int:
    """Print the times; 1 if the target is missed."""
    torch.set_num_threads(1)
    x_NM, y_N = made_up()
    W_EM = torch.nn.functional.normalize(torch.randn(D_SAE, D_MODEL, generator=torch.Generator().manual_seed(0)), dim=1)
    start = time.process_time()
    train, test = of_texts(y_N, FIRST_SEED)
    dense = probe(x_NM[train], y_N[train], x_NM[test], y_N[test], FIRST_SEED)
    print(f"first probe, with the import of scikit-learn: {time.process_time() - start:.2f} s, AUC {dense.auc:.3f}")
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time()
        probes(encoded(x_NM, W_EM), y_N)
        taken.append(time.process_time() - start)
    print(f"one SAE, one task, k {KS}, {N_SEEDS} seeds: {min(taken):.2f} s of processor time (target {TARGET_SECONDS})")
    start = time.process_time()
    for seed in range(FIRST_SEED, FIRST_SEED + N_SEEDS):
        train, test = of_texts(y_N, seed)
        probe(x_NM[train], y_N[train], x_NM[test], y_N[test], seed)
    print(f"raw rows, one task, {N_SEEDS} seeds: {time.process_time() - start:.2f} s")
    return int(not met(min(taken) <= TARGET_SECONDS))


if __name__ == "__main__":
    sys.exit(main())
