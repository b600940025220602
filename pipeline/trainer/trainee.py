"""One SAE in training: everything it has learnt or remembers, and its next update."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.objective import Objective, StepResult
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import Workspace
from strata_sae.pipeline.trainer.groups import Job
from strata_sae.pipeline.trainer.optimiser import (
    Adam,
    Tensors,
    clip_coefficient,
    gradient_norm,
    radial_part,
)
from strata_sae.pipeline.trainer.rates import learning_rate
from strata_sae.pipeline.trainer.resample import draw_rows, is_due, restart
from strata_sae.pipeline.trainer.trackers import DeadClock, RunningThreshold


@dataclass(frozen=True, kw_only=True)
class Update:
    """One update that was made, for the log."""

    result: StepResult
    learning_rate: float
    gradient_norm: float
    """Of all gradients, as the clip sees it."""
    resampled_latents: int
    """Dead latents that were started again after it (count)."""


class Trainee:
    """A job's SAE, optimiser, dead clock and threshold. `step` updates are done; `diverged` says why it stopped."""

    def __init__(self, job: Job, weights: Tensors, workspace: Workspace) -> None:
        device = weights["W_dec"].device
        self.job = job
        self.training = training = job.training
        self.workspace = workspace
        self.step = 0
        self.diverged: str | None = None
        self.sae = ARCHITECTURES[job.variant.sae.architecture](
            job.variant.sae, weights["b_dec"].numel(), weights, _d_in(weights)
        )
        self.sae.break_even_density = training.break_even_density
        self.objective = Objective(job.variant.objective, self.sae)
        self.adam = Adam.start(training, self.sae.parameters())
        self.dead_clock = DeadClock(self.sae.d_sae, training.dead_after_rows, device)
        self.threshold = RunningThreshold(
            training.threshold_beta, not self.sae.has_threshold, device, start=training.threshold_mean
        )

    def is_due(self, step: int) -> bool:
        """Whether update `step` (0-based) is the next it has to make."""
        return self.diverged is None and self.step == step

    def update(self, x_BM: Tensor, target_BM: Tensor | None = None) -> Update | None:
        """Learn from one batch of scaled rows; target_BM: what to reconstruct, where that is not x_BM.

        Returns: None if it diverged, with the parameters as they were.
        """
        training, parameters = self.training, self.sae.parameters()
        fraction_done = self.step / self.training.n_steps
        encoding = self.sae.encode(x_BM, fraction_done=fraction_done, workspace=self.workspace)
        dead_E = self.dead_clock.update(encoding.codes)
        result = self.objective.forward_backward(x_BM, dead_E, fraction_done, encoding=encoding, target_BM=target_BM)
        radial, square = None, None
        if self.sae.settings.decoder == "unit":
            radial = radial_part(result.gradients["W_dec"], parameters["W_dec"], training.projection_epsilon)
            # Projecting commutes with scaling, so which comes first only decides what the clip measures.
            square = radial.square_without if training.order == "project_clip" else radial.square
        clipped_norm = gradient_norm(result.gradients, square).to(result.loss.dtype)
        loss, norm = torch.stack([result.loss, clipped_norm]).tolist()
        self.diverged = _why_diverged(loss, norm)
        if self.diverged is not None:
            return None
        if self.step >= training.threshold_start_step:
            self.threshold.update(encoding.cut)
        rate = learning_rate(training, self.step)
        coefficient = clip_coefficient(norm, training.clip_norm)
        self.adam.update(
            parameters, result.gradients, step=self.step, rate=rate, coefficient=coefficient, radial=radial
        )
        self.sae.constrain()
        self.step += 1
        resampled = self._resample(x_BM, x_BM if target_BM is None else target_BM, fraction_done)
        return Update(result=result, learning_rate=rate, gradient_norm=norm, resampled_latents=resampled)

    def _resample(self, x_BM: Tensor, target_BM: Tensor, fraction_done: float) -> int:
        """Start dead latents again, if that is due after this step. Returns: how many."""
        settings = self.job.variant.resampling
        if settings is None or not is_due(settings, self.step):
            return 0
        dead_E = self.dead_clock.rows_since_active >= settings.dead_after_steps * self.job.batch_size
        codes = self.sae.encode(x_BM, fraction_done=fraction_done, workspace=self.workspace).codes
        error_B = (target_BM - self.sae.decode(codes)).norm(dim=1)
        drawn = draw_rows(error_B, int(dead_E.sum()), settings, seed=self.job.seed, step=self.step)
        memories = (self.adam.mean, self.adam.square)
        drawn = drawn.to(x_BM.device)
        latents = restart(self.sae.parameters(), memories, target_BM[drawn], dead_E, settings, x_BM[drawn])
        self.dead_clock.rows_since_active[latents] = 0
        return len(latents)

    def state(self) -> tuple[Tensors, dict[str, int]]:
        """All that is learnt or remembered: the tensors themselves by checkpoint key, and plain scalars."""
        tensors = {f"parameters.{name}": tensor for name, tensor in self.sae.parameters().items()}
        tensors |= {f"adam.mean.{name}": tensor for name, tensor in self.adam.mean.items()}
        tensors |= {f"adam.square.{name}": tensor for name, tensor in self.adam.square.items()}
        tensors |= {f"objective.{name}": tensor for name, tensor in self.objective.state().items()}
        tensors["dead_clock.rows_since_active"] = self.dead_clock.rows_since_active
        tensors["threshold.mean"] = self.threshold.mean
        tensors["threshold.weight"] = self.threshold.weight
        return tensors, {"step": self.step}

    def load_state(self, tensors: Tensors, scalars: dict[str, int]) -> None:
        """Go back to a saved state. Raises: CheckpointError on a missing, unknown or misshapen entry."""
        remembered = {
            name.removeprefix("objective."): t for name, t in tensors.items() if name.startswith("objective.")
        }
        self.objective.load_state(remembered)
        own = self.state()[0]
        if own.keys() != tensors.keys() or scalars.keys() != {"step"}:
            missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
            raise CheckpointError(
                f"{self.job.name}: its checkpoint lacks {missing} and holds unknown {unknown}; "
                "it was written by another version, so delete the folder to train this variant again"
            )
        for name, tensor in own.items():
            saved = tensors[name]
            if (saved.shape, saved.dtype) != (tensor.shape, tensor.dtype):
                raise CheckpointError(
                    f"{self.job.name}: its checkpoint holds {name} as {saved.dtype} {list(saved.shape)}, "
                    f"expected {tensor.dtype} {list(tensor.shape)}; delete the folder to train this variant again"
                )
            tensor.copy_(saved)
        self.step = scalars["step"]


def _d_in(weights: Tensors) -> int | None:
    """Width of what is read; None for tied weights, which read what they write."""
    return weights["W_enc"].shape[1] if "W_enc" in weights else None


def _why_diverged(loss: float, norm: float) -> str | None:
    if not math.isfinite(loss):
        return f"loss is {loss}"
    return f"gradient norm is {norm}" if not math.isfinite(norm) else None
