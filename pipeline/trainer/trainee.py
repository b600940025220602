"""One SAE in training: its parameters, what training remembers beside them, and its next update."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from strata_sae.pipeline.config.training import ResolvedTraining
from strata_sae.pipeline.config.variants import Variant
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.kernels.codes import Codes, DenseCodes
from strata_sae.pipeline.objective import Objective, StepResult
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import Workspace
from strata_sae.pipeline.sharding.ranks import ONE, Ranks
from strata_sae.pipeline.trainer.best import Best
from strata_sae.pipeline.trainer.optimiser import (
    Adam,
    Tensors,
    clip_coefficient,
    gradient_norm,
    learning_rate,
    radial_part,
)
from strata_sae.pipeline.trainer.plateau import Plateau
from strata_sae.pipeline.trainer.resample import draw_rows, is_due, restart


class DeadClock:
    """Rows seen since each latent was last active, that is since its value was last not 0."""

    def __init__(self, d_sae: int, dead_after_rows: int, device: torch.device) -> None:
        self.dead_after_rows = dead_after_rows
        self.rows_since_active = torch.zeros(d_sae, dtype=torch.int64, device=device)  # [E]

    def update(self, codes: Codes) -> Tensor:
        """Count one batch. Returns: which latents are dead, bool [E], this batch included."""
        self.rows_since_active += codes.batch_size
        self.rows_since_active.masked_fill_(codes.active_E(), 0)
        return self.dead()

    def dead(self) -> Tensor:
        """Whether each latent is dead: bool [E]."""
        return self.rows_since_active >= self.dead_after_rows


class RunningThreshold:
    """Running mean of the smallest selected activation, in float64; a batch without a positive one is skipped.

    `start`: `corrected` (the mean starts at 0 and is divided by the weight of what was added), `first_value` or
    `from_zero`. Source: dictionary_learning's TopK and BatchTopK trainers (first_value), SAELens and HypotheSAEs
    (from_zero).
    """

    def __init__(
        self, beta: float, per_row: bool, device: torch.device, *, start: str = "corrected", ranks: Ranks = ONE
    ) -> None:
        self.beta, self.ranks = beta, ranks
        self.per_row = per_row
        self.start = start
        self.mean = torch.zeros((), dtype=torch.float64, device=device)
        self.weight = torch.zeros((), dtype=torch.float64, device=device)  # share of the mean that is not its start, 0

    def update(self, codes: Codes) -> None:
        """Count one batch: the smallest positive activation of all its rows, or the mean of each row's smallest."""
        smallest_B = self.ranks.smallest(_smallest_positive(codes)).double()
        has_positive_B = smallest_B.isfinite()
        over_rows = smallest_B.masked_fill(~has_positive_B, 0.0).sum() / has_positive_B.sum()
        smallest = over_rows if self.per_row else smallest_B.amin()
        share = has_positive_B.any().double() * (1.0 - self.beta)
        if self.start == "first_value":
            share = torch.where(self.weight > 0, share, has_positive_B.any().double())
        self.mean.lerp_(smallest.nan_to_num(nan=0.0, posinf=0.0), share)
        self.weight.lerp_(torch.ones_like(self.weight), share)

    def is_set(self) -> bool:
        """Whether there has been a positive activation."""
        return float(self.weight) > 0

    def value(self) -> float:
        """The threshold; 0 while it is not set."""
        if not self.is_set():
            return 0.0
        return float(self.mean if self.start == "from_zero" else self.mean / self.weight)


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one update did, for the log."""

    result: StepResult
    learning_rate: float
    gradient_norm: float
    """Of all gradients together, as the clip measures it."""
    resampled_latents: int
    """Dead latents that were started again after it (count)."""


class Trainee:
    """A variant's SAE, optimiser, dead clock and threshold, and what held-out losses decide.

    `step` updates are done; `diverged` says why there are no more.
    """

    def __init__(
        self,
        variant: Variant,
        training: ResolvedTraining,
        weights: Tensors,
        workspace: Workspace,
        *,
        seed: int = 0,
        extends: bool = False,
        ranks: Ranks = ONE,
    ) -> None:
        """`training` is that of the job. `seed` decides which rows resampling draws, and between equal values.

        ranks: the processes that hold the SAE together; `weights` are then those of this one.

        extends: whether it goes on from a finished SAE; schedules other than the rate's then stay at their ends.
        """
        self.extends = extends
        device = weights["W_dec"].device
        self.variant, self.training, self.workspace, self.seed = variant, training, workspace, seed
        self.step = 0
        self.diverged: str | None = None
        d_in = weights["W_enc"].shape[1] if "W_enc" in weights else None  # tied weights read what they write
        architecture = ARCHITECTURES[variant.sae.architecture]
        self.ranks, self.sae = ranks, architecture.held_by(ranks, variant.sae, weights["b_dec"].numel(), weights, d_in)
        self.sae.break_even_density, self.sae.seed = training.break_even_density, seed
        self.objective = Objective(variant.objective, self.sae)
        self.adam = Adam.start(training, self.sae.parameters())
        self.dead_clock = DeadClock(self.sae.d_sae, training.dead_after_rows, device)
        self.threshold = RunningThreshold(
            training.threshold_beta, not self.sae.has_threshold, device, start=training.threshold_mean, ranks=ranks
        )
        patience = training.heldout.patience if training.heldout is not None else None
        threshold = {"threshold.mean": self.threshold.mean, "threshold.weight": self.threshold.weight}
        self.best = None if patience is None else Best(patience, self.sae.parameters() | threshold)
        plateau = training.plateau if training.decay == "plateau" else None
        self.plateau = None if plateau is None else Plateau(plateau, training.decay_to)

    def is_due(self, step: int) -> bool:
        """Whether update `step` (0-based) is the next one to make."""
        return not self.ended_early and self.step == step

    @property
    def stopped_early(self) -> bool:
        """Whether held-out losses have ended its training."""
        return self.best is not None and self.best.gave_up

    @property
    def ended_early(self) -> bool:
        """Whether it makes no further update although steps are left."""
        return self.diverged is not None or self.stopped_early

    def measured(self, heldout_loss: float) -> None:
        """Take in a held-out loss. At the end, which it may bring about, the weights become those of the lowest one."""
        if self.plateau is not None:
            self.plateau.measured(heldout_loss)
        if self.best is not None:
            self.best.measured(heldout_loss, self.step, self.objective.for_readers())
            if self.best.gave_up or self.step == self.training.n_steps:
                self.best.restore()

    def update(self, x_BM: Tensor, target_BM: Tensor | None = None, *, monitored: bool = False) -> Update | None:
        """Learn from one batch of scaled rows; target_BM: what to reconstruct, where that is not x_BM.

        monitored: whether the update is logged, and its monitors are measured; that changes no bit of the parameters.

        Returns: None if it diverged, with the parameters as they were, or those of the lowest held-out loss if it may
            stop early.
        """
        training, parameters = self.training, self.sae.parameters()
        fraction_done = 1.0 if self.extends else self.step / self.training.n_steps
        encoding = self.sae.encode(x_BM, fraction_done=fraction_done, workspace=self.workspace)
        dead_E = self.dead_clock.update(encoding.codes)
        result = self.objective.forward_backward(
            x_BM, dead_E, fraction_done, encoding=encoding, target_BM=target_BM, monitored=monitored
        )
        radial, square = None, None
        if self.sae.settings.decoder == "unit":
            radial = radial_part(result.gradients["W_dec"], parameters["W_dec"], training.projection_epsilon)
            # Projecting commutes with scaling, so the order only decides which of the two norms the clip measures.
            square = radial.square_without if training.order == "project_clip" else radial.square
        clipped_norm = gradient_norm(result.gradients, square, self.ranks).to(result.loss.dtype)
        loss, norm = torch.stack([result.loss, clipped_norm]).tolist()  # one transfer from the device for both
        self.diverged = _why_diverged(loss, norm)
        if self.diverged is not None:
            if self.best is not None:
                self.best.restore()
            return None
        if self.step >= training.threshold_start_step:
            self.threshold.update(encoding.cut)
        rate = learning_rate(training, self.step)
        if self.plateau is not None:
            rate *= self.plateau.factor
            self.plateau.count(loss)
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
        settings = self.variant.resampling
        if settings is None or not is_due(settings, self.step):
            return 0
        dead_E = self.dead_clock.rows_since_active >= settings.dead_after_steps * self.training.batch_size
        codes = self.sae.encode(x_BM, fraction_done=fraction_done, workspace=self.workspace).codes
        error_B = (target_BM - self.sae.decode(codes)).norm(dim=1)
        drawn = draw_rows(error_B, int(dead_E.sum()), settings, seed=self.seed, step=self.step).to(x_BM.device)
        memories = (self.adam.mean, self.adam.square)
        latents = restart(self.sae.parameters(), memories, target_BM[drawn], dead_E, settings, x_BM[drawn])
        self.dead_clock.rows_since_active[latents] = 0
        return len(latents)

    def for_readers(self) -> Tensors:
        """What the final file holds of the loss terms, beside the weights and as old as they are."""
        if self.best is None or self.best.step is None:
            return self.objective.for_readers()
        return self.best.for_readers

    def state(self) -> Tensors:
        """All that is learnt or remembered but for `step`: the tensors themselves, by their names in a checkpoint."""
        tensors = {f"parameters.{name}": tensor for name, tensor in self.sae.parameters().items()}
        tensors |= {f"adam.mean.{name}": tensor for name, tensor in self.adam.mean.items()}
        tensors |= {f"adam.square.{name}": tensor for name, tensor in self.adam.square.items()}
        tensors |= {f"objective.{name}": tensor for name, tensor in self.objective.state().items()}
        tensors["dead_clock.rows_since_active"] = self.dead_clock.rows_since_active
        tensors["threshold.mean"] = self.threshold.mean
        tensors["threshold.weight"] = self.threshold.weight
        for part in (self.best, self.plateau):
            tensors |= {} if part is None else part.state()
        return tensors

    def load_state(self, tensors: Tensors, step: int, name: str) -> None:
        """Go back to the state after `step` updates; `name` is the SAE's, for errors.

        Raises: CheckpointError on a missing, unknown or misshapen tensor.
        """
        self.objective.load_state(
            {key.removeprefix("objective."): t for key, t in tensors.items() if key.startswith("objective.")}
        )
        if self.best is not None:
            self.best.load_readers(tensors)
        expected = self.state()
        if expected.keys() != tensors.keys():
            missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
            raise CheckpointError(
                f"{name}: its checkpoint lacks {missing} and holds unknown {unknown}; "
                "it was written by another version, so delete the folder to train this variant again"
            )
        for key, tensor in expected.items():
            saved = tensors[key]
            if (saved.shape, saved.dtype) != (tensor.shape, tensor.dtype):
                raise CheckpointError(
                    f"{name}: its checkpoint holds {key} as {saved.dtype} {list(saved.shape)}, "
                    f"expected {tensor.dtype} {list(tensor.shape)}; delete the folder to train this variant again"
                )
            tensor.copy_(saved)
        self.step = step


def _smallest_positive(codes: Codes) -> Tensor:
    """The smallest positive value of each row, infinity where there is none: [B]."""
    values = codes.values.masked_fill(codes.values <= 0, torch.inf)
    if isinstance(codes, DenseCodes):
        return values.amin(dim=1)
    return values.new_full((codes.batch_size,), torch.inf).scatter_reduce_(0, codes.rows_P.long(), values, "amin")


def _why_diverged(loss: float, norm: float) -> str | None:
    if not math.isfinite(loss):
        return f"loss is {loss}"
    return f"gradient norm is {norm}" if not math.isfinite(norm) else None
