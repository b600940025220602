"""What scores of rows cost, beside SAELens' metric code, and for two populations beside one.

    .venv-peers/bin/python benchmarks/scores.py [threads]

Eight SAEs of one site (three TopK, three with a threshold, two ReLU; M 576, E 2304, about 32 active latents), rows in
memory on both sides, the same way of inference. Ours: `Scores`, all metrics of METRICS. Theirs:
`get_sparsity_and_variance_metrics` of each SAE. Populations: of 100 rows one is BOS and one is beyond training's norm
limit. The jobs take turns; times are minima of the processor time at one thread, else of the clock. Exit code 1 if R2
or L0 differ by more than 1e-5, ours is less than 4 times faster, or two populations take more than 1.15 of one.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from benchmarks.toy import met, sized
from strata_sae.pipeline.evaluation.populations import Populations
from strata_sae.pipeline.evaluation.scores import Scores
from strata_sae.pipeline.reading.heldout_spans import Span
from support.library_evaluators import HOOK, RowsAsModel, saelens_sae, saelens_scores
from support.scored_in_memory import scored_in_memory, spans_in_memory, trained_in_memory

D_MODEL, D_SAE, K, BATCH, BATCHES = sized((576, 2304, 32, 4096, 6), (32, 128, 8, 512, 2))
ROUNDS, CONTEXT = sized(4, 1), sized(256, 64)
REQUIRED_RATIO, LARGEST_OF_TWO = 4.0, 1.15
TOLERANCE = 1e-5


def made_up_rows() -> Tensor:
    """Sparse sums of directions, off-centre."""
    generator = torch.Generator().manual_seed(0)
    n_rows = BATCH * BATCHES
    truth_EM = torch.nn.functional.normalize(torch.randn(4 * D_MODEL, D_MODEL, generator=generator), dim=1)
    on_NE = torch.rand(n_rows, 4 * D_MODEL, generator=generator)
    return torch.where(on_NE > 0.99, on_NE, 0.0) @ truth_EM + 0.1


def weights_of(seed: int, x_BM: Tensor) -> tuple[dict[str, Tensor], float]:
    """Of an SAE, and the value that about K pre-activations of a row exceed."""
    generator = torch.Generator().manual_seed(seed)
    W_EM = torch.nn.functional.normalize(torch.randn(D_SAE, D_MODEL, generator=generator), dim=1)
    cut = float((x_BM[:512] @ W_EM.T).flatten().quantile(1 - K / D_SAE) if D_SAE < 1000 else _cut(x_BM[:512] @ W_EM.T))
    return {"W_enc": W_EM, "W_dec": W_EM.clone(), "b_enc": torch.zeros(D_SAE), "b_dec": torch.zeros(D_MODEL)}, cut


def _cut(values_BE: Tensor) -> float:
    return float(values_BE.flatten().topk(len(values_BE) * K).values[-1])


def both_sides(x_NM: Tensor) -> tuple[list[tuple[dict[str, object], dict[str, Tensor]]], list[object]]:
    """Settings and weights of our SAEs, and theirs."""
    ours, theirs = [], []
    for number in range(8):
        weights, cut = weights_of(number, x_NM)
        if number < 3:
            ours.append(({"architecture": "topk", "k": K}, weights))
            theirs.append(saelens_sae("topk", weights, k=K, rescale_acts_by_decoder_norm=False))
        elif number < 6:
            weights |= {"threshold": torch.tensor(cut, dtype=torch.float64)}
            ours.append(({"architecture": "batch_topk", "k": K}, weights))
            theirs.append(saelens_sae("jumprelu", weights))
        else:
            weights["b_enc"] -= cut
            ours.append(({"architecture": "relu"}, weights))
            theirs.append(saelens_sae("standard", weights))
    return ours, theirs


def main() -> int:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    x_NM = made_up_rows()
    place_N = np.arange(len(x_NM))
    special_N, passes_N = place_N % 100 == 0, (place_N % 100 != 0) & (place_N % 100 != 50)
    ours, theirs = both_sides(x_NM)
    of_one, of_two = (
        spans_in_memory(x_NM, special_N & two, passes_N if two else np.ones_like(passes_N), BATCH)
        for two in (False, True)
    )
    in_memory = [trained_in_memory(settings | {"d_sae": D_SAE}, weights, D_MODEL) for settings, weights in ours]

    @torch.inference_mode()
    def our_side(rows: list[Span], are_one: bool) -> list[dict[str, float | None]]:
        populations = Populations(are_one=are_one)
        return scored_in_memory([Scores(trained, populations) for trained in in_memory], populations, rows)

    def their_side() -> list[dict[str, float]]:
        rows = RowsAsModel(x_NM, torch.zeros(len(x_NM), dtype=torch.bool), CONTEXT, BATCH // CONTEXT)
        return [saelens_scores(sae, rows, BATCHES) for sae in theirs]

    jobs: dict[str, Callable[[], list[dict[str, float | None]]]] = {
        "ours": lambda: our_side(of_one, True),
        "ours, two populations": lambda: our_side(of_two, False),
        "SAELens": their_side,
    }
    seconds, found = dict.fromkeys(jobs, float("inf")), {}
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            began = clock()
            found[name] = job()
            seconds[name] = min(seconds[name], clock() - began)
    for name, least in seconds.items():
        print(f"{name:24s} {least:8.3f} s for 8 SAEs x {len(x_NM):,} rows")
    worst = max(
        abs(mine[own] / their[other] - 1)
        for mine, their in zip(found["ours"], found["SAELens"], strict=True)
        for own, other in (("r2_pooled", "explained_variance"), ("l0", "l0"), ("sse", "mse"))
    )
    ratio, of_two_ratio = seconds["SAELens"] / seconds["ours"], seconds["ours, two populations"] / seconds["ours"]
    print(f"site {HOOK}: R2, L0 and SSE differ by {worst:.1e} at most (allowed {TOLERANCE:g})")
    print(f"SAELens / ours: {ratio:.2f} (asked {REQUIRED_RATIO:g}); two populations / one: {of_two_ratio:.3f} "
          f"(asked at most {LARGEST_OF_TWO:g})")  # fmt: skip
    fast = met(ratio >= REQUIRED_RATIO) and met(of_two_ratio <= LARGEST_OF_TWO)
    return int(not fast or worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
