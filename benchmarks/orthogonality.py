"""What the orthogonality term costs beside a plain step, and beside the same term by dense autograd.

    python benchmarks/orthogonality.py [threads]

TopK, M 576, E 8192, k 32, B 2048, float32, random rows: about 780,000 pairs compete, an upper end for this size. The
jobs take turns; times are minima of the processor time at one thread, else of the clock. Dense: co-activation, c and
Gram as [E, E], gradients by autograd. Memory: how far a step's peak resident set exceeds what there was before it.
Start it with OMP_WAIT_POLICY=passive. Exit code 1 if the losses differ by more than 1e-6, a step takes more than 1.4 of
a plain one, or the term is less than 100 times faster than dense autograd.
"""

import ctypes
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from memory import mebibytes

from benchmarks.toy import met, sized
from strata_sae.pipeline.objective import Objective
from strata_sae.pipeline.objective.term import Step
from strata_sae.pipeline.saes import ARCHITECTURES, initial_weights
from strata_sae.pipeline.saes.base import SAE, Workspace
from strata_sae.pipeline.trainer.trainee import Trainee
from support.lockstep import our_trainee

D_MODEL, D_SAE, K, BATCH = sized((576, 8192, 32, 2048), (64, 512, 16, 256))
THRESHOLD, ROUNDS = 0.1, sized(7, 1)
REQUIRED_RATIO = 100.0
LARGEST_STEP = 1.4
"""Of a plain step."""
RATE = 1e-5
"""Small, so that the pairs stay what they are while we measure."""


def planted_rows() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    truth_EM = torch.nn.functional.normalize(torch.randn(4096, D_MODEL, generator=generator), dim=1)
    on_BE = torch.rand(BATCH, 4096, generator=generator) * (torch.rand(BATCH, 4096, generator=generator) < 0.01)
    return torch.nn.functional.normalize(on_BE @ truth_EM, dim=1)


def training(workspace: Workspace, **term: object) -> Trainee:
    """An SAE and its updates, with or without the term."""
    settings = ARCHITECTURES["topk"].Settings(d_sae=D_SAE, k=K)
    weights = initial_weights(settings, D_MODEL, torch.Generator().manual_seed(1))
    objective = {"reconstruction": {}, **({"orthogonality": {"threshold": THRESHOLD, **term}} if term else {})}
    variant = {"sae": {"architecture": "topk", "d_sae": D_SAE, "k": K}, "objective": objective}
    trainee = our_trainee(weights, n_steps=1_000_000, variant=variant, learning_rate=RATE)
    trainee.workspace = workspace
    return trainee


def dense_autograd(W_dec: Tensor, codes_BE: Tensor) -> tuple[Tensor, Tensor]:
    """The term's loss and gradient with [E, E] matrices."""
    on_BE = (codes_BE != 0).float()
    both_EE, n_E = on_BE.T @ on_BE, on_BE.sum(0)
    n_EE = both_EE / torch.minimum(n_E[:, None], n_E).clamp(min=1)
    c_EE = ((n_EE - THRESHOLD) / THRESHOLD).clamp(0, 1).fill_diagonal_(0)
    W_dec = W_dec.clone().requires_grad_()
    loss = (c_EE * (W_dec @ W_dec.T).abs()).sum(dtype=torch.float64)
    (gradient,) = torch.autograd.grad(loss, W_dec)
    return loss.detach(), gradient


def term_alone(sae: SAE, x_BM: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
    """The same by the product, from the codes on."""
    encoding = sae.encode(x_BM, workspace=Workspace())
    step = Step(sae, x_BM, encoding, x_BM, None, 0.0)
    return objective.terms["orthogonality"].add(step), step.direct[0][1]


def measure(jobs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Smallest milliseconds of each job."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    best = dict.fromkeys(jobs, float("inf"))
    for round_number in range(rounds + 1):
        for name, job in jobs.items():
            start = clock()
            job()
            if round_number > 0:  # the first warms up
                best[name] = min(best[name], 1e3 * (clock() - start))
    return best


def peak(job: Callable[[], object]) -> float:
    """MiB of resident memory that a job takes beyond what there was before it."""
    ctypes.CDLL(None).malloc_trim(0)  # or what was freed before would be used again, uncounted
    before = mebibytes("/proc/self/status", "VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the peak
    job()
    return mebibytes("/proc/self/status", "VmHWM") - before


def main() -> int:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads())
    x_BM, workspace = planted_rows(), Workspace()
    plain, fifth = training(workspace), training(workspace, weight=1e-6, every_steps=5)
    term = training(workspace, weight=1e-6)
    one = training(workspace, weight=1.0)
    codes = one.sae.encode(x_BM, workspace=workspace).codes
    own_peak = peak(lambda: term_alone(one.sae, x_BM, one.objective))
    loss, gradient = term_alone(one.sae, x_BM, one.objective)
    jobs = {"plain step": partial(plain.update, x_BM), "step with the term": partial(term.update, x_BM)}
    best = measure(jobs, ROUNDS)
    start = time.process_time()
    for _ in range(5):
        fifth.update(x_BM)
    every_fifth = (time.process_time() - start) * 200
    codes_BE = codes.to_dense()
    alone = measure(
        {
            "encoding": lambda: one.sae.encode(x_BM, workspace=workspace),
            "encoding and term": lambda: term_alone(one.sae, x_BM, one.objective),
            "dense autograd": lambda: dense_autograd(one.sae.W_dec, codes_BE),
        },
        1,
    )
    dense_peak = peak(lambda: dense_autograd(one.sae.W_dec, codes_BE))
    expected, expected_gradient = dense_autograd(one.sae.W_dec, codes_BE)
    extra = best["step with the term"] - best["plain step"]
    ratio = alone["dense autograd"] / extra
    step = best["step with the term"] / best["plain step"]
    off = abs(float(loss) / float(expected) - 1)
    gradient_off = float((gradient - expected_gradient).norm() / expected_gradient.norm())
    result = one.objective.forward_backward(x_BM, None, 0.0, workspace, monitored=True)
    print(f"M {D_MODEL}, E {D_SAE}, k {K}, B {BATCH}, {torch.get_num_threads()} threads")
    print(f"  competing pairs {float(result.monitors['orthogonality/competing_pairs']):.0f}")
    for name, milliseconds in {**best, **alone}.items():
        print(f"  {name:20s} {milliseconds:8.1f} ms")
    print(f"  the term adds {extra:.1f} ms: a step takes {step:.2f} of a plain one (allowed: {LARGEST_STEP})")
    print(f"  with every_steps 5, on average {every_fifth:.1f} ms of processor time a step")
    print(f"  {ratio:.1f} times faster than dense autograd (required: {REQUIRED_RATIO:.0f})")
    print(f"  loss differs by {off:.1e} (allowed: 1e-6), gradient by {gradient_off:.1e}")
    print(f"  peak memory {own_peak:.0f} MiB, dense {dense_peak:.0f} MiB; one [E, E] is {D_SAE**2 * 4 / 2**20:.0f} MiB")
    return int(off > 1e-6 or not met(ratio >= REQUIRED_RATIO and step <= LARGEST_STEP))


if __name__ == "__main__":
    sys.exit(main())
