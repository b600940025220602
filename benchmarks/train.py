"""How much faster one update is than the same maths by dense autograd, both measured in this process.

    python benchmarks/train.py

TopK, M 576, E 8192, k 32, B 2048, float32: selection, gradients, projection, clip, Adam, renormalisation. Rounds are
interleaved, so that both sides meet the same load. Exit code 1 if the ratio of the minima is below 4 or if the
gradients differ.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.config.training import TrainingSettings
from pipeline.kernels.codes import Codes, DenseCodes
from pipeline.kernels.selection import BREAK_EVEN_DENSITY
from pipeline.objective import Objective
from pipeline.objective.orthogonality import Orthogonality
from pipeline.objective.reconstruction import Reconstruction
from pipeline.saes import initial_weights
from pipeline.saes.base import SAE, Workspace
from pipeline.saes.topk import TopK
from pipeline.trainer.optimiser import (
    Adam,
    Tensors,
    clip_coefficient,
    gradient_norm,
    project_decoder_gradient,
    renormalise_decoder,
)

D_MODEL, D_SAE, K, BATCH = 576, 8192, 32, 2048
N_ROUNDS = 12
REQUIRED_RATIO = 4.0
TRAINING = TrainingSettings(n_steps=1000, warmup_steps=0)
TERMS = {"reconstruction": Reconstruction.Config(), "orthogonality": Orthogonality.Config(weight=0.1, threshold=0.1)}
SAE_SETTINGS = TopK.Config(d_sae=D_SAE, k=K)


class Ours:
    """One update as the trainer makes it."""

    def __init__(self, weights: Tensors, terms: list[str], workspace: Workspace) -> None:
        self.sae = TopK(SAE_SETTINGS, D_MODEL, {name: w.clone() for name, w in weights.items()})
        self.objective = Objective({name: TERMS[name] for name in terms}, self.sae)
        self.adam = Adam.start(TRAINING, self.sae.parameters())
        self.workspace = workspace
        self.step = 0

    def gradients(self, x_BM: Tensor) -> Tensors:
        """By hand, sparse."""
        return self.objective.forward_backward(x_BM, None, self.step / TRAINING.n_steps, self.workspace).gradients

    def update(self, x_BM: Tensor) -> None:
        """One step, parameters changed in place."""
        gradients, parameters = self.gradients(x_BM), self.sae.parameters()
        project_decoder_gradient(gradients["W_dec"], parameters["W_dec"])
        coefficient = clip_coefficient(float(gradient_norm(gradients)), 1.0)
        self.adam.update(parameters, gradients, step=self.step, rate=TRAINING.learning_rate, coefficient=coefficient)
        renormalise_decoder(parameters["W_dec"])
        self.step += 1


class DenseAutograd:
    """The same update with dense matrices, autograd and torch.optim.Adam."""

    def __init__(self, weights: Tensors) -> None:
        self.parameters = {name: torch.nn.Parameter(w.clone()) for name, w in weights.items()}
        self.adam = torch.optim.Adam(self.parameters.values(), lr=TRAINING.learning_rate)

    def gradients(self, x_BM: Tensor) -> Tensors:
        """By autograd, dense."""
        p = self.parameters
        pre_BE = (x_BM - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]
        values_BK, indices_BK = pre_BE.relu().topk(K, dim=1, sorted=False)
        codes_BE = torch.zeros_like(pre_BE).scatter(1, indices_BK, values_BK)
        loss = (x_BM - codes_BE @ p["W_dec"] - p["b_dec"]).square().sum(1).mean()
        self.adam.zero_grad()
        loss.backward()
        return {name: parameter.grad for name, parameter in p.items() if parameter.grad is not None}

    def update(self, x_BM: Tensor) -> None:
        """One step, parameters changed in place."""
        gradients = self.gradients(x_BM)
        with torch.no_grad():
            project_decoder_gradient(gradients["W_dec"], self.parameters["W_dec"])
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
            self.adam.step()
            renormalise_decoder(self.parameters["W_dec"])


def measure(jobs: Mapping[str, Callable[[], object]], n_rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every job in every round; the jobs take turns."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for round_number in range(n_rounds + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if round_number > 0:  # the first warms up
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def largest_difference(found: Tensors, expected: Tensors) -> float:
    """Norm of the difference over the norm, of the worst parameter."""
    return max(float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected)


def agreement(ours: Ours, x_BM: Tensor) -> float:
    """How far our gradients are from autograd's, at our present parameters."""
    return largest_difference(ours.gradients(x_BM), DenseAutograd(ours.sae.parameters()).gradients(x_BM))


def step_cost(codes: Codes, sae: SAE, x_BM: Tensor) -> None:
    """Everything an update does with codes: forward, and three backward products."""
    codes = codes.with_values(codes.values)  # forgets what it has sorted
    gradient_BM = codes.decode(sae.W_dec)
    values = codes.dots(gradient_BM, sae.W_dec)
    codes.transposed_times(gradient_BM)
    codes.transposed_times(x_BM, values)


def break_even(sae: SAE, x_BM: Tensor, generator: torch.Generator) -> None:
    print(f"\nSparse against dense codes (the product switches at a density of {BREAK_EVEN_DENSITY}):")
    for density in (0.01, 0.05, 0.1, 0.2):
        values_BE = torch.rand(BATCH, D_SAE, generator=generator)
        dense = DenseCodes(values_BE * (torch.rand(BATCH, D_SAE, generator=generator) < density))
        sparse = dense.to_sparse()
        jobs = {
            "sparse": partial(step_cost, sparse, sae, x_BM),
            "dense": partial(step_cost, dense, sae, x_BM),
        }
        best = {name: min(times) for name, times in measure(jobs, 2).items()}
        print(f"  density {density:4.2f}: sparse {best['sparse']:7.1f} ms, dense {best['dense']:7.1f} ms")


def main() -> int:
    generator = torch.Generator().manual_seed(0)
    weights = initial_weights(SAE_SETTINGS, D_MODEL, generator)
    truth_EM = torch.nn.functional.normalize(torch.randn(4096, D_MODEL, generator=generator), dim=1)
    on_BE = torch.rand(BATCH, 4096, generator=generator) * (torch.rand(BATCH, 4096, generator=generator) < 0.01)
    x_BM = torch.nn.functional.normalize(on_BE @ truth_EM, dim=1)

    workspace = Workspace()
    ours = Ours(weights, ["reconstruction"], workspace)
    with_pairs = Ours(weights, ["reconstruction", "orthogonality"], workspace)
    reference = DenseAutograd(weights)
    out_BE = workspace.buffer(BATCH, D_SAE, like=x_BM)
    differences = [agreement(ours, x_BM)]
    times = measure(
        {
            "dense autograd": lambda: reference.update(x_BM),
            "strata": lambda: ours.update(x_BM),
            "strata + orthogonality": lambda: with_pairs.update(x_BM),
            "encoder product alone": lambda: ours.sae.pre_activations(x_BM, out_BE),
        },
        N_ROUNDS,
    )
    differences.append(agreement(ours, x_BM))

    print(
        f"TopK update, M {D_MODEL}, E {D_SAE}, k {K}, B {BATCH}; {torch.get_num_threads()} threads, {N_ROUNDS} rounds"
    )
    for name, milliseconds in times.items():
        print(f"  {name:24s} min {min(milliseconds):7.1f} ms, median {statistics.median(milliseconds):7.1f} ms")
    ratios = [pick(times["dense autograd"]) / pick(times["strata"]) for pick in (min, statistics.median)]
    share = min(times["encoder product alone"]) / min(times["strata"])
    pairs = with_pairs.objective.forward_backward(x_BM, None, 0.0, workspace).monitors["orthogonality/competing_pairs"]
    extra = min(times["strata + orthogonality"]) - min(times["strata"])
    print(f"  ratio: {ratios[0]:.2f} of the minima (required: {REQUIRED_RATIO}), {ratios[1]:.2f} of the medians")
    print(f"  the encoder product is {share:.0%} of the update; orthogonality adds {extra:.1f} ms ({pairs:.0f} pairs)")
    print(f"  gradients differ by {differences[0]:.1e} before and {differences[1]:.1e} after training (allowed: 1e-5)")
    break_even(ours.sae, x_BM, generator)
    return int(ratios[0] < REQUIRED_RATIO or max(differences) > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
