"""One update of ours beside the same update of dictionary_learning and SAELens, in one process.

    make peers && .venv-peers/bin/python benchmarks/train.py [--rounds 5] [--cpu-time] [NAME ...]

Everything a trainer does with a batch: encode, count the dead, gradients, projection, clip, Adam, renormalisation.
M 576, B 2048, float32. Rounds are interleaved, so that all sides meet the same load; ratios are of the minima. Before
that, every side makes the same three updates, and how far the weights are then apart is printed. Without the other
libraries (plain .venv), we are timed alone. On a machine that is not idle, OMP_NUM_THREADS=1 and --cpu-time count only
what this process computed. Exit code 1 if a ratio falls short of what is required, or weights differ.
"""

import argparse
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command line does; before torch is loaded

import torch
from torch import Tensor
from train_peers import Peer, Weights, dictionary_learning, sae_lens, there_are_peers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.toy import met, sized
from strata_sae.pipeline.saes import ARCHITECTURES, initial_weights
from strata_sae.pipeline.saes.base import Workspace
from strata_sae.pipeline.trainer.trainee import Trainee
from support.lockstep import our_trainee

D_MODEL, BATCH, N_ROUNDS = sized((576, 2048, 5), (64, 256, 1))
SHRINK = sized(1, 16)
"""What the numbers of latents are divided by; names of cases keep the full size's."""
RATE = 1e-5
"""Small, so that the density stays what it is while we measure."""
ALLOWED_DIFFERENCE = 0.01
"""Norm of the difference after three updates over the norm of what they changed: where a gradient is nearly 0, rounding
decides which way Adam goes."""
L1 = 1e-4
GROUPS = [1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32]
ENDS = [1 / 32, 3 / 32, 7 / 32, 15 / 32, 1.0]
NORM_1 = {"rescale_acts_by_decoder_norm": False, "aux_loss_coefficient": 0.0}


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    sae: dict[str, Any]
    required: float
    """Smallest ratio to either library."""
    objective: dict[str, Any] = field(default_factory=lambda: {"reconstruction": {}})
    encoder: str = "float32"
    density: float | None = None
    """Share of latents on at the start, where no k says it; the encoder's bias is set to give it."""
    theirs: tuple[str, dict[str, Any]] | None = None
    """dictionary_learning's trainer and its settings."""
    sae_lens: tuple[str, dict[str, Any]] | None = None
    """SAELens' class and its settings."""
    sae_lens_objective: dict[str, Any] | None = None
    """Our objective that equals SAELens', where it is another."""
    clip_norm: float | None = 1.0


def topk(d_sae: int, k: int, required: float, encoder: str = "float32") -> Case:
    sae = {"architecture": "topk", "d_sae": d_sae // SHRINK, "k": k}
    return Case(
        sae,
        required,
        encoder=encoder,
        theirs=("TopKTrainer", {"k": k}),
        sae_lens=("TopKTrainingSAE", {"k": k, **NORM_1}),
    )


def batch_topk(d_sae: int, k: int, required: float) -> Case:
    sae = {"architecture": "batch_topk", "d_sae": d_sae // SHRINK, "k": k}
    return Case(
        sae,
        required,
        theirs=("BatchTopKTrainer", {"k": k}),
        sae_lens=("BatchTopKTrainingSAE", {"k": float(k), **NORM_1}),
    )


def matryoshka(d_sae: int, k: int, required: float) -> Case:
    d_sae //= SHRINK
    widths = [round(end * d_sae) for end in ENDS]
    prefixes = {"fractions": ENDS, "compat": "dictionary_learning"}
    return Case(
        {"architecture": "batch_topk", "d_sae": d_sae, "k": k},
        required,
        objective={"prefix_reconstruction": prefixes},
        theirs=("MatryoshkaBatchTopKTrainer", {"k": k, "group_fractions": GROUPS}),
        sae_lens=("MatryoshkaBatchTopKTrainingSAE", {"k": float(k), "matryoshka_widths": widths, **NORM_1}),
        sae_lens_objective={"prefix_reconstruction": {"fractions": ENDS, "weight": float(len(ENDS))}},
    )


def relu(d_sae: int, density: float, required: float) -> Case:
    return Case(
        {"architecture": "relu", "d_sae": d_sae // SHRINK},
        required,
        objective={"reconstruction": {}, "l1": {"weight": L1}},
        density=density,
        theirs=("StandardTrainer", {"l1_penalty": L1, "sparsity_warmup_steps": None}),
        sae_lens=("StandardTrainingSAE", {"l1_coefficient": L1}),
        clip_norm=None,
    )


CASES = {
    "topk-8192-k32": topk(8192, 32, 6.0),
    "topk-16384-k32": topk(16384, 32, 6.0),
    "topk-8192-k128": topk(8192, 128, 5.0),
    "bfloat16-8192-k32": topk(8192, 32, 8.0, "certified_bfloat16"),
    "bfloat16-16384-k32": topk(16384, 32, 8.0, "certified_bfloat16"),
    "batch_topk-8192-k32": batch_topk(8192, 32, 6.0),
    "batch_topk-16384-k32": batch_topk(16384, 32, 6.0),
    "matryoshka-8192-k32": matryoshka(8192, 32, 5.0),
    "relu-8192-1%": relu(8192, 0.01, 4.5),
    "relu-8192-3%": relu(8192, 0.03, 3.0),
    "relu-8192-10%": relu(8192, 0.1, 1.0),
    "relu-8192-20%": relu(8192, 0.2, 1.0),
    "relu-8192-50%": relu(8192, 0.5, 1.0),
}
ORTHOGONALITY = {"orthogonality": {"weight": 0.1, "threshold": 0.1}}
LARGEST_ORTHOGONALITY = 1.4
SMALLEST_ENCODER_SHARE = 0.65


def rows() -> Tensor:
    """Sums of few of many directions, of norm 1."""
    generator = torch.Generator().manual_seed(0)
    truth_EM = torch.nn.functional.normalize(torch.randn(4096, D_MODEL, generator=generator), dim=1)
    on_BE = torch.rand(BATCH, 4096, generator=generator) * (torch.rand(BATCH, 4096, generator=generator) < 0.01)
    return torch.nn.functional.normalize(on_BE @ truth_EM, dim=1)


def start_of(case: Case, x_BM: Tensor) -> Weights:
    """Weights all sides begin with."""
    settings = ARCHITECTURES[case.sae["architecture"]].Settings(**case.sae)
    weights = initial_weights(settings, D_MODEL, torch.Generator().manual_seed(1))
    if case.density is not None:
        pre = (x_BM[:256] @ weights["W_enc"].T).flatten()
        weights["b_enc"] -= pre.topk(int(case.density * pre.numel())).values.min()
    return weights


def ours_of(case: Case, weights: Weights, objective: dict[str, Any] | None = None, **sae: Any) -> Trainee:
    variant = {"sae": {**case.sae, **sae}, "objective": objective or case.objective}
    clip = 1.0 if sae else case.clip_norm
    trainee = our_trainee(weights, n_steps=1_000_000, variant=variant, learning_rate=RATE, clip_norm=clip)
    trainee.workspace = Workspace(case.encoder)
    return trainee


def peers_of(case: Case, weights: Weights) -> dict[str, Peer]:
    if not there_are_peers():
        return {}
    peers = {}
    if case.theirs:
        name, settings = case.theirs
        peers["dictionary_learning"] = dictionary_learning(name, weights, RATE, BATCH, **settings)
    if case.sae_lens:
        name, settings = case.sae_lens
        peers["SAELens"] = sae_lens(name, weights, RATE, BATCH, **settings)
    return peers


def differences(case: Case, weights: Weights, peers: Mapping[str, Peer], x_BM: Tensor) -> dict[str, float]:
    """How far weights differ after three updates from equal weights, over how far they moved; of the worst parameter.

    SAELens leaves decoder rows free, so there ours do, too.
    """
    found = {}
    for name, peer in peers.items():
        free = {"decoder": "free"} if name == "SAELens" else {}
        trainee = ours_of(case, weights, case.sae_lens_objective if free else None, **free)
        for _ in range(3):
            trainee.update(x_BM)
            peer.update(x_BM)
        theirs = peer.weights()
        found[name] = max(
            float((p - theirs[key]).norm() / (p - weights[key]).norm()) for key, p in trainee.sae.parameters().items()
        )
    return found


def measure(jobs: Mapping[str, Callable[[], object]], n_rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Milliseconds of every job, the best of all rounds; the jobs take turns, and the first round warms up."""
    best = dict.fromkeys(jobs, float("inf"))
    for round_number in range(n_rounds + 1):
        for name, job in jobs.items():
            start = clock()
            job()
            if round_number > 0:
                best[name] = min(best[name], 1e3 * (clock() - start))
    return best


def run_case(name: str, case: Case, x_BM: Tensor, n_rounds: int, clock: Callable[[], float]) -> bool:
    """Measure and print one row. Returns: whether it is as required."""
    weights = start_of(case, x_BM)
    peers = peers_of(case, weights)
    differ = differences(case, weights, peers, x_BM)
    ours = ours_of(case, weights)
    out_BE = torch.empty(BATCH, case.sae["d_sae"])
    jobs: dict[str, Callable[[], object]] = {peer: lambda p=p: p.update(x_BM) for peer, p in peers.items()}
    jobs["ours"] = lambda: ours.update(x_BM)
    jobs["encoder"] = lambda: ours.sae.pre_activations(x_BM, out_BE)
    if case.sae["architecture"] == "topk" and case.encoder == "float32":
        pairs = ours_of(case, weights, {**case.objective, **ORTHOGONALITY})
        jobs["orthogonality"] = lambda: pairs.update(x_BM)
    best = measure(jobs, n_rounds, clock)
    ratios = {peer: best[peer] / best["ours"] for peer in peers}
    share = best["encoder"] / best["ours"]
    good = met(all(ratio >= case.required for ratio in ratios.values()))
    good &= all(gap <= ALLOWED_DIFFERENCE for gap in differ.values())
    line = f"{name:22s} ours {best['ours']:7.1f} ms, encoder {share:4.0%}"
    for peer, ratio in ratios.items():
        line += f" | {peer} {best[peer]:7.1f} ms, {ratio:5.2f}x, differs {differ[peer]:.0e}"
    line += f" | required {case.required:.1f}x" if peers else ""
    if "orthogonality" in best:
        extra = best["orthogonality"] / best["ours"]
        line += f" | with orthogonality {extra:.2f}x (allowed {LARGEST_ORTHOGONALITY})"
        good &= met(extra <= LARGEST_ORTHOGONALITY)
    print(line + ("" if good else "   <- short"), flush=True)
    return good


def peak_bytes(name: str) -> int:
    """Most memory an update takes beside parameters, gradients, Adam's memories and the rows: a child measures it."""
    command = [sys.executable, __file__, "--peak-of", name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_peak(name: str) -> None:
    x_BM = rows()
    ours = ours_of(CASES[name], start_of(CASES[name], x_BM))
    small = replace(CASES[name], sae={**CASES[name].sae, "d_sae": 512})
    ours_of(small, start_of(small, x_BM)).update(x_BM)  # loads the compiled loops, whose code is no part of a step
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    for _ in range(3):
        ours.update(x_BM)
    gradients = sum(parameter.nbytes for parameter in ours.sae.parameters().values())
    print(_resident_bytes("VmHWM") - before - gradients)


def _resident_bytes(field_name: str) -> int:
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field_name}:"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"rows of the table: {', '.join(CASES)}".replace("%", "%%"))
    parser.add_argument("--rounds", type=int, default=N_ROUNDS)
    parser.add_argument("--cpu-time", action="store_true", help="time of the processor, not of the clock on the wall")
    parser.add_argument("--memory", action="store_true", help="print the peak memory of a step, too")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        print_peak(arguments.peak_of)
        return 0
    x_BM = rows()
    print(
        f"M {D_MODEL}, B {BATCH}, {torch.get_num_threads()} threads, best of {arguments.rounds} rounds, "
        f"{'CPU' if arguments.cpu_time else 'wall'} time"
    )
    good = True
    for name in arguments.names or CASES:
        clock = time.process_time if arguments.cpu_time else time.perf_counter
        good &= run_case(name, CASES[name], x_BM, arguments.rounds, clock)
        if arguments.memory:
            tile = Workspace.tile_rows * CASES[name].sae["d_sae"] * 4
            print(
                f"{'':22s} peak of a step {peak_bytes(name) / 2**20:.0f} MiB; a tile {tile / 2**20:.0f} MiB", flush=True
            )
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
