"""Stage 2: an activation store -> one trained SAE per variant and site, without the language model."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from strata_sae.pipeline.available import choose_device
from strata_sae.pipeline.config.loading import dump
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.engines import Engine, Share
from strata_sae.pipeline.engines.local import Local
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.kernels.break_even import measured_break_even
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.sharding.launch import launch
from strata_sae.pipeline.sharding.torchrun import ranks_here
from strata_sae.pipeline.strict_yaml import parse
from strata_sae.pipeline.trainer.estimate import PassRate, estimate_lines
from strata_sae.pipeline.trainer.extend import plan_extensions
from strata_sae.pipeline.trainer.failures import steps_done
from strata_sae.pipeline.trainer.jobs import Job, plan_jobs
from strata_sae.pipeline.trainer.lots import lots_of, train_lots
from strata_sae.pipeline.trainer.one_pass import run_pass
from strata_sae.pipeline.trainer.passes import Pass, announcement, plan_passes, whole_passes
from strata_sae.pipeline.trainer.preparing import announce, note_environment, write_config
from strata_sae.pipeline.trainer.shardable import held_by_first, refuse_unshardable
from strata_sae.pipeline.trainer.summary import table
from strata_sae.pipeline.trainer.trials import Trial
from strata_sae.stores import Together

log = logging.getLogger(__name__)

Measuring = Callable[[Sequence[Pass], Together, torch.device], list[PassRate]]
_ONE_PROCESS = Local(n_workers=1)


class Asked(NamedTuple):
    """Which SAEs of a config are to be trained: as `train` has them."""

    only: Sequence[str] = ()
    extend: int | None = None
    trials: Mapping[str, Trial | None] | None = None


def train(
    config: TrainConfig,
    *,
    stage: Path | None = None,
    only: Sequence[str] = (),
    extend: int | None = None,
    trials: Mapping[str, Trial | None] | None = None,
    engine: Engine = _ONE_PROCESS,
    show_progress: bool = True,
) -> None:
    """Train every variant at every site; what is finished is skipped, what was interrupted goes on.

    Any number of processes may do this in one run folder: each takes what no other holds, and waits for the rest.

    Args:
        stage: a folder on a near disk, to which what is read of the store is copied first.
        only: names or patterns (topk_*) of the variants to train now; none: all.
        extend: train variants that go on from the finished ones for so many updates, instead of these.
        trials: what is to be tried of SAEs whose L0 is being matched: see `plan_jobs`.
        engine: who trains.
    Raises: StoreError, ConfigError, CheckpointError; StoppedError if this process was asked to end.

    """
    run, asked = RunFolder(config.run_path()), Asked(tuple(only), extend, trials)
    if launch().n > 1:
        jobs, speeds = _train_by_ranks(config, stage, run, asked, engine, show_progress=show_progress)
    elif engine.in_process:
        jobs, speeds = _train_here(config, stage, run, asked, engine, show_progress=show_progress)
    else:
        jobs, speeds = _train_elsewhere(config, stage, run, asked, engine, show_progress=show_progress), {}
    if jobs:
        for line in table(jobs, speeds):
            log.info("%s", line)


def _train_here(
    config: TrainConfig, stage: Path | None, run: RunFolder, asked: Asked, engine: Engine, *, show_progress: bool
) -> tuple[list[Job], dict[str, float]]:
    """Train in this process. Returns: the jobs, none if all were done before, and the rows per second of some."""
    stores = open_store(config, stage)
    device = choose_device(config.training.device, "training.device")
    jobs = _jobs(config, stores, run, asked)
    passes = plan_passes(jobs, stores, config.training.memory_bytes, device)
    write_config(run, config)
    if passes:
        note_environment(run, device)
        announce(passes, config, stores, run)
    train_pass = partial(_run_pass, stores, run, device, show_progress)
    speeds: dict[str, float] = {}
    engine.run(lambda share: speeds.update(train_lots(passes, run, share, train_pass)), lambda: 0)
    return (jobs if passes else []), speeds


def _train_by_ranks(
    config: TrainConfig, stage: Path | None, run: RunFolder, asked: Asked, engine: Engine, *, show_progress: bool
) -> tuple[list[Job], dict[str, float]]:
    """Train in all processes that torchrun has started, which hold each SAE together. Returns: as `_train_here`.

    Only the first of them writes records and claims SAEs. Raises: ConfigError with an engine of several workers.
    """
    if not engine.in_process:
        raise ConfigError(
            f"torchrun has started {launch().n} ranks that hold each SAE together, and the engine {engine.n_workers} "
            "workers that hold different ones; use one of the two"
        )
    stores, device = open_store(config, stage), choose_device(config.training.device, "training.device")
    jobs = _jobs(config, stores, run, asked)
    refuse_unshardable(jobs, launch().n)
    speeds: dict[str, float] = {}
    with ranks_here(device) as ranks:
        passes = plan_passes(jobs, stores, config.training.memory_bytes, device, ranks.n_here, ranks)
        ranks.any(False)  # all have looked at the folder before the first one changes it
        if ranks.rank == 0:
            write_config(run, config)
        if ranks.rank == 0 and passes:
            note_environment(run, device)
            announce(passes, config, stores, run)
        for pass_ in passes:
            with held_by_first(pass_, run, ranks) as check_held:
                speeds |= run_pass(
                    pass_, stores, run, device, show_progress=show_progress, check_held=check_held, ranks=ranks
                )
        is_told = ranks.rank == 0 and passes
        if is_told:
            log.info(
                "each of %d ranks sent %.4g MB; of %d rows a rank's first offer was too short",
                ranks.n,
                ranks.sent.bytes_of_rank(ranks.n) / 1e6,
                ranks.sent.rows_again,
            )
    return (jobs if is_told else []), speeds


def _train_elsewhere(
    config: TrainConfig, stage: Path | None, run: RunFolder, asked: Asked, engine: Engine, *, show_progress: bool
) -> list[Job]:
    """Have the workers of an engine train. Returns: the jobs, none if all were done before.

    Raises: CheckpointError if not all is trained when they have ended, with their reasons.
    """
    stores = open_store(config)
    # What workers train on is theirs to find: this machine need not have it.
    anywhere = config.model_copy(update={"training": config.training.model_copy(update={"device": "auto"})})
    jobs = _jobs(anywhere, stores, run, asked)
    passes = whole_passes(jobs, stores)
    write_config(run, config)
    if not passes:
        return []
    announce(lots_of(passes, engine.n_workers), config, stores, run, n_at_once=engine.n_workers)
    to_train = [job for pass_ in passes for job in pass_.jobs]
    total, start = sum(job.training.n_steps for job in to_train), _steps_done(to_train)
    with Progress("train", total, "step", start=start, shown=show_progress) as bar:

        def watch() -> int:
            bar.advance(max(0, _steps_done(to_train) - bar.done))
            return bar.done

        reasons = engine.run(partial(train_share, dump(config), stage, asked), watch)
        watch()
    if missing := [job.name for job in to_train if not job.folder.training.exists()]:
        raise CheckpointError(
            f"{run.path}: all workers have ended, and {len(missing)} of {len(to_train)} SAEs are not trained "
            f"({', '.join(missing[:10])}): {'; '.join(reasons)}. Remove the cause and run the same command again: what "
            "is there is kept"
        )
    return jobs


def train_share(text: str, stage: Path | None, asked: Asked, share: Share) -> None:
    """What a worker does: train what no other holds until all is trained. text: a config as YAML."""
    config = TrainConfig.model_validate(parse(text, "config.yaml")[0])
    stores, run = open_store(config, stage), RunFolder(config.run_path())
    device = choose_device(config.training.device, "training.device")
    jobs = _jobs(config, stores, run, asked)
    passes = plan_passes(jobs, stores, config.training.memory_bytes, device, share.here)
    if passes:
        note_environment(run, device)
    train_lots(passes, run, share, partial(_run_pass, stores, run, device, False))


def _run_pass(
    stores: Together,
    run: RunFolder,
    device: torch.device,
    show_progress: bool,
    pass_: Pass,
    check_held: Callable[[], None],
) -> dict[str, float]:
    return run_pass(pass_, stores, run, device, show_progress=show_progress, check_held=check_held)


def _steps_done(jobs: Sequence[Job]) -> int:
    """Updates that are made and saved, of all these SAEs (count)."""
    return sum(
        job.training.n_steps if job.folder.training.exists() else min(steps_done(job.folder), job.training.n_steps)
        for job in jobs
    )


def _jobs(config: TrainConfig, stores: Together, run: RunFolder, asked: Asked) -> list[Job]:
    """What is to be trained: the variants of the config, or extensions of them."""
    if asked.extend is None:
        return plan_jobs(config, stores, run, asked.only, asked.trials)
    return plan_extensions(config, stores, run, asked.extend, asked.only)


def describe_training(
    config: TrainConfig,
    only: Sequence[str] = (),
    measure: Measuring | None = None,
    extend: int | None = None,
    trials: Mapping[str, Trial | None] | None = None,
) -> str:
    """What `train` would do: passes, variants, memory, disk. Reads the store, trains nothing. Raises: as `train`.

    measure: gives the rates that the time is estimated from; without it no time is said. trials: as `train` has them.
    """
    stores = open_store(config)
    device = choose_device(config.training.device, "training.device")
    jobs = _jobs(config, stores, RunFolder(config.run_path()), Asked(only, extend, trials))
    passes = plan_passes(jobs, stores, config.training.memory_bytes, device)
    n_left = sum(len(pass_.jobs) for pass_ in passes)
    measured = _break_evens(passes, config.training.break_even_density, device)
    timed = estimate_lines(passes, measure(passes, stores, device), device) if measure else []
    left = f"{n_left} of {len(jobs)} SAEs are left to train"
    return "\n".join([left, *announcement(passes, stores), *measured, *timed])


def _break_evens(passes: list[Pass], used: float, device: torch.device) -> list[str]:
    """A line for each shape: the density of codes from which full matrices are faster here. Takes a second each."""
    shapes = {(pass_.training.batch_size, job.variant.sae.d_sae, pass_.d_out) for pass_ in passes for job in pass_.jobs}
    return [
        f"B {shape[0]}, E {shape[1]}, M {shape[2]}: on this machine full matrices are faster than sparse codes from a "
        f"density of {measured_break_even(*shape, device=device.type):.2g} on (measured); "
        f"training.break_even_density is {used:g}"
        for shape in sorted(shapes)
    ]
