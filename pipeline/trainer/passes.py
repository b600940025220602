"""Passes over the store: which jobs share batches, what a pass takes of memory and disk, and how it is announced."""

import logging
from dataclasses import dataclass, replace
from math import prod

import torch

from strata_sae.pipeline.available import free_bytes, total_bytes
from strata_sae.pipeline.config.training import ResolvedTraining
from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.reading.feed import Scaling, capped_window, stream_settings
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.sharding.ranks import ONE, Ranks
from strata_sae.pipeline.trainer.checkpoint import KEPT_CHECKPOINTS
from strata_sae.pipeline.trainer.jobs import Job, is_done
from strata_sae.pipeline.trainer.ladder import steps_kept
from strata_sae.stores import StreamSettings, Together

log = logging.getLogger(__name__)

PARAMETER_COPIES_IN_MEMORY = 4
"""Parameters, gradients, and Adam's two memories."""
PARAMETER_COPIES_IN_CHECKPOINT = 3
"""Parameters and Adam's two memories."""
FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Unfinished jobs that read the same batches.

    Which settings hold: those of `training` for the pass (batches, steps, logging, checkpoints), those of a job's own
    `training` for its updates. The two agree but for what a variant may change (`UpdateSettings`), and in the batch
    size, the number of steps and the input scale they always agree.
    """

    route: Route
    seed: int
    training: ResolvedTraining
    """That of the first of these jobs."""
    stream: StreamSettings
    scaling: Scaling
    """Factors of the rows: the same for every variant, and folded into its final weights."""
    d_in: int
    d_out: int
    row_bytes: int
    """Of all sites together, as they are stored."""
    n_rows: int
    """Rows of the store (count)."""
    first_batch: int
    """Number of the batch of the first update."""
    jobs: tuple[Job, ...]
    n_ranks: int = 1
    """Processes that hold each of these SAEs together (count)."""

    def describe(self) -> str:
        """One line for the log."""
        names = ", ".join(job.label for job in self.jobs)
        size = self.training.batch_size
        held = f", held by {self.n_ranks} ranks together" if self.n_ranks > 1 else ""
        return f"{self.route.name}: batches of {size} rows, seed {self.seed}, read once for {names}{held}"

    def length(self) -> str:
        """One line for the log: how long training is, in updates and in epochs."""
        n_steps, n_rows, size = self.training.n_steps, self.jobs[0].rows.n_rows, self.training.batch_size
        return (
            f"{self.route.name}: {n_steps:,} updates of {size:,} rows are {n_steps * size / n_rows:.4g} epochs of the "
            f"{n_rows:,} rows to train on"
        )

    def memory_bytes(self) -> int:
        """Bytes of parameters and optimisers, of the pre-activations that variants share, and of two windows.

        Of ranks: of the one that holds the most.
        """
        training = self.training
        widths = {-(-job.variant.sae.d_sae // self.n_ranks) for job in self.jobs}
        pre_activations = sum(training.batch_size * width for width in widths)
        window = min(2 * min(training.window_rows, self.n_rows) * self.row_bytes, training.window_bytes)
        return (
            self._copies(PARAMETER_COPIES_IN_MEMORY) * -(-self._n_parameters() // self.n_ranks) + pre_activations
        ) * FLOAT_BYTES + window

    def checkpoint_bytes(self) -> int:
        """Most bytes of checkpoints at one time: those that are kept, and the one that is being written."""
        n_made = -(-self.training.n_steps // self.training.checkpoint_every_steps)
        return min(KEPT_CHECKPOINTS + 1, n_made) * self._copies(PARAMETER_COPIES_IN_CHECKPOINT) * self.weights_bytes()

    def weights_bytes(self) -> int:
        """Bytes of the final weights, which stay."""
        return self._n_parameters() * FLOAT_BYTES

    def kept_bytes(self) -> int:
        """Bytes of the weights of shares of the run, which stay, too."""
        return len(steps_kept(self.training.keep, self.training.n_steps)) * self.weights_bytes()

    def _copies(self, copies: int) -> int:
        """Copies of the parameters that are in memory, or in a checkpoint, with those of early stopping."""
        heldout = self.training.heldout
        return copies + (heldout is not None and heldout.patience is not None)

    def _n_parameters(self) -> int:
        settings = [job.variant.sae for job in self.jobs]
        shapes = [ARCHITECTURES[sae.architecture].shapes(sae, self.d_out, self.d_in).values() for sae in settings]
        return sum(prod(shape) for of_one_sae in shapes for shape in of_one_sae)


def plan_passes(
    jobs: list[Job],
    stores: Together,
    memory_bytes: int | None,
    device: torch.device,
    n_sharing: int = 1,
    ranks: Ranks = ONE,
) -> list[Pass]:
    """The passes that are left to make: unfinished jobs that read the same batches, as many in one as memory allows.

    Sharing a pass changes no bit of a job, so passes may differ from one call to the next.

    Args:
        memory_bytes: `training.memory_bytes`.
        n_sharing: workers that share this machine's memory evenly (count); each has a GPU of its own, if any.
        ranks: the processes that hold each SAE together, and come to the same passes; each may take memory_bytes.
    Raises: CheckpointError if a job's folder holds another SAE; ConfigError if a job needs more memory than there is.

    """
    budget, most = memory_bytes or free_bytes(device), total_bytes(device)
    if device.type == "cpu":
        budget //= n_sharing
    budget, most = ranks.least(budget), ranks.least(most)
    wholes = (replace(whole, n_ranks=ranks.n) for whole in whole_passes(jobs, stores))
    return [part for whole in wholes for part in _split(whole, budget, most)]


def whole_passes(jobs: list[Job], stores: Together) -> list[Pass]:
    """The unfinished jobs that read the same batches, whatever memory that takes.

    Raises: CheckpointError if a job's folder holds another SAE.
    """
    together: dict[tuple[Route, int, int, int, str, int], list[Job]] = {}
    for job in jobs:
        training = job.training
        lengths = (training.batch_size, training.n_steps)
        read_as = (job.route, *lengths, job.seed, training.input_scale, job.first_batch)
        unfinished = together.setdefault(read_as, [])
        if is_done(job):
            log.info("%s: trained already, skipped", job.name)
        else:
            unfinished.append(job)
    return [_pass_of(unfinished, stores) for unfinished in together.values() if unfinished]


def _pass_of(jobs: list[Job], stores: Together) -> Pass:
    """One pass for jobs of one route, batch size, number of steps, seed and input scale."""
    first = jobs[0]
    route, training = first.route, first.training
    plans = {site: stores.at(site).plan for site in route.sites}
    return Pass(
        route=route,
        seed=first.seed,
        training=training,
        stream=stream_settings(route, stores, training, first.seed),
        scaling=first.rows.scaling,
        d_in=route.d_in(stores.sites),
        d_out=route.d_out(stores.sites),
        row_bytes=sum(plan.bytes_per_row(site) for site, plan in plans.items()),
        n_rows=plans[route.reads[0]].n_rows,
        first_batch=first.first_batch,
        jobs=tuple(jobs),
    )


def _split(whole: Pass, budget_bytes: int, most_bytes: int) -> list[Pass]:
    """The jobs in order, as many in each pass as the budget allows, at least one.

    Raises: ConfigError if a job alone needs more than `most_bytes`, all that the machine has.
    """
    parts: list[Pass] = []
    for job in whole.jobs:
        if parts and (larger := replace(whole, jobs=(*parts[-1].jobs, job))).memory_bytes() <= budget_bytes:
            parts[-1] = larger
        else:
            parts.append(replace(whole, jobs=(job,)))
    for part in parts:
        needed, name = part.memory_bytes(), part.jobs[0].name
        if needed > most_bytes:
            raise ConfigError(
                f"{name} needs about {needed / 1e9:.4g} GB of memory, and this machine has "
                f"{most_bytes / 1e9:.4g} GB; lower its sae.d_sae, training.batch_size or training.window_bytes"
            )
        if needed > budget_bytes:
            log.warning(
                "%s needs about %.2f GB, more than the %.2f GB that it may take (training.memory_bytes); trying",
                name,
                needed / 1e9,
                budget_bytes / 1e9,
            )
    if len(parts) > 1:
        log.info(
            "%s: %d passes over the store, since all %d variants need about %.2f GB and %.2f GB may be used",
            whole.route.name,
            len(parts),
            len(whole.jobs),
            whole.memory_bytes() / 1e9,
            budget_bytes / 1e9,
        )
    return parts


def announcement(passes: list[Pass], stores: Together) -> list[str]:
    """What is about to be trained together, which windows are capped, and what it takes of memory and disk."""
    memory = max((pass_.memory_bytes() for pass_ in passes), default=0)
    disk = disk_bytes(passes)
    needs = f"needs about {memory / 1e9:.3g} GB of memory, and {disk / 1e9:.3g} GB of disk for checkpoints and weights"
    capped = (capped_window(pass_.route, stores, pass_.stream, pass_.training) for pass_ in passes)
    lengths = (pass_.length() for pass_ in passes)
    return [*(pass_.describe() for pass_ in passes), *dict.fromkeys(lengths), *filter(None, capped), needs]


def disk_bytes(passes: list[Pass], n_at_once: int = 1) -> int:
    """Bytes of the weights of all passes, and of the checkpoints of those that are made at once (count).

    The checkpoints of a pass are deleted before the next one begins.
    """
    largest = sorted((pass_.checkpoint_bytes() for pass_ in passes), reverse=True)
    return sum(largest[:n_at_once]) + sum(pass_.weights_bytes() + pass_.kept_bytes() for pass_ in passes)
