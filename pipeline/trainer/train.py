"""Stage 2: an activation store -> one trained SAE per variant and site, without the language model."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from strata_sae.pipeline.available import choose_device
from strata_sae.pipeline.config.loading import dump
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.kernels.break_even import measured_break_even
from strata_sae.pipeline.reading.outlier_norms import outlier_norms
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs.environment import Environment, environment
from strata_sae.pipeline.runs.folders import RunFolder, only_writer
from strata_sae.pipeline.runs.record_files import changed_keys, read_lines, read_record, write_record, write_yaml
from strata_sae.pipeline.runs.records import CurveLine, Ending, Measure
from strata_sae.pipeline.trainer.estimate import PassRate, estimate_lines
from strata_sae.pipeline.trainer.extend import plan_extensions
from strata_sae.pipeline.trainer.jobs import Job, never_dead, plan_jobs
from strata_sae.pipeline.trainer.one_pass import run_pass
from strata_sae.pipeline.trainer.passes import Pass, announcement, disk_bytes, plan_passes
from strata_sae.stores import Together
from strata_sae.stores.files.filesystem import missing_space

log = logging.getLogger(__name__)

Measuring = Callable[[Sequence[Pass], Together, torch.device], list[PassRate]]
HEADINGS = ("variant", "site", "steps", "loss", "r2", "l0", "dead", "rows/s", "")


def train(
    config: TrainConfig,
    *,
    stage: Path | None = None,
    only: Sequence[str] = (),
    extend: int | None = None,
    show_progress: bool = True,
) -> None:
    """Train every variant at every site; what is finished is skipped, what was interrupted goes on.

    Args:
        stage: a folder on a near disk, to which what is read of the store is copied first.
        only: names or patterns (topk_*) of the variants to train now; none: all.
        extend: train variants that go on from the finished ones for so many updates, instead of these.
    Raises: StoreError, ConfigError, CheckpointError.

    """
    stores, run = open_store(config, stage), RunFolder(config.run_path())
    device = choose_device(config.training.device, "training.device")
    jobs = _jobs(config, stores, run, only, extend)
    speeds: dict[str, float] = {}
    with only_writer(run.path):
        passes = plan_passes(jobs, stores, config.training.memory_bytes, device)
        write_yaml(run.config, dump(config))
        if passes:
            _prepare(passes, config, stores, run, device)
        for pass_ in passes:
            speeds |= run_pass(pass_, stores, run, device, show_progress=show_progress)
    if passes:
        for line in table(jobs, speeds):
            log.info("%s", line)


def _jobs(config: TrainConfig, stores: Together, run: RunFolder, only: Sequence[str], extend: int | None) -> list[Job]:
    """What is to be trained: the variants of the config, or extensions of them."""
    if extend is None:
        return plan_jobs(config, stores, run, only)
    return plan_extensions(config, stores, run, extend, only)


def describe_training(
    config: TrainConfig, only: Sequence[str] = (), measure: Measuring | None = None, extend: int | None = None
) -> str:
    """What `train` would do: passes, variants, memory, disk. Reads the store, trains nothing. Raises: as `train`.

    measure: gives the rates that the time is estimated from; without it no time is said.
    """
    stores = open_store(config)
    device = choose_device(config.training.device, "training.device")
    jobs = _jobs(config, stores, RunFolder(config.run_path()), only, extend)
    passes = plan_passes(jobs, stores, config.training.memory_bytes, device)
    n_left = sum(len(pass_.jobs) for pass_ in passes)
    measured = _break_evens(passes, config.training.break_even_density, device)
    timed = estimate_lines(passes, measure(passes, stores, device), device) if measure else []
    left = f"{n_left} of {len(jobs)} SAEs are left to train"
    return "\n".join([left, *announcement(passes, stores), *measured, *timed])


def _prepare(passes: list[Pass], config: TrainConfig, stores: Together, run: RunFolder, device: torch.device) -> None:
    """Record the environment, announce the passes with their warnings, and check that their files find room.

    Raises: CheckpointError if the run folder's disk lacks room.
    """
    _note_environment(run, device)
    for line in announcement(passes, stores):
        log.info("%s", line)
    _check_space(run, passes)
    if uneven := outlier_norms(config, stores):
        log.warning("%s", uneven)
    for line in never_dead(job for pass_ in passes for job in pass_.jobs):
        log.warning("%s", line)


def _note_environment(run: RunFolder, device: torch.device) -> None:
    """Record what bits depend on besides config and store, and log what changed in it since the last call."""
    now = environment(device=device.type, torch_threads=torch.get_num_threads())
    if run.environment.exists():
        before = read_record(run.environment, Environment).record
        for change in changed_keys(before.model_dump(mode="json"), now.model_dump(mode="json")):
            log.warning("%s: environment %s; results may differ in the last bits", run.path, change)
    write_record(run.environment, now)


def _check_space(run: RunFolder, passes: list[Pass]) -> None:
    """Raises: CheckpointError if the run folder's disk lacks room for what is not there yet."""
    folders = (job.folder.checkpoints for pass_ in passes for job in pass_.jobs)
    there = sum(path.stat().st_size for folder in folders for path in folder.rglob("*.safetensors"))
    if problem := missing_space(run.path, disk_bytes(passes) - there):
        raise CheckpointError(
            f"{run.path}: training {problem} for checkpoints and weights; free some, train fewer variants at once "
            "(--only, or a lower training.memory_bytes), or raise training.checkpoint_every_steps to n_steps"
        )


def _break_evens(passes: list[Pass], used: float, device: torch.device) -> list[str]:
    """A line for each shape: the density of codes from which full matrices are faster here. Takes a second each."""
    shapes = {(pass_.training.batch_size, job.variant.sae.d_sae, pass_.d_out) for pass_ in passes for job in pass_.jobs}
    return [
        f"B {shape[0]}, E {shape[1]}, M {shape[2]}: on this machine full matrices are faster than sparse codes from a "
        f"density of {measured_break_even(*shape, device=device.type):.2g} on (measured); "
        f"training.break_even_density is {used:g}"
        for shape in sorted(shapes)
    ]


def table(jobs: list[Job], rows_per_second: Mapping[str, float]) -> list[str]:
    """A heading, then a line for every job that is done; the speed of those that were trained just now."""
    rows = [_row(job, rows_per_second.get(job.name)) for job in jobs if job.folder.training.exists()]
    cells = [HEADINGS, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADINGS))]
    return ["  ".join(_aligned(row, widths)).rstrip() for row in cells]


def _aligned(row: tuple[str, ...], widths: list[int]) -> list[str]:
    """Numbers, which stand between the two names and the last cell, to the right."""
    return [
        cell.rjust(width) if 2 <= column < len(row) - 1 else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _row(job: Job, speed: float | None) -> tuple[str, ...]:
    ending = read_record(job.folder.training, Ending).record
    last = [line.numbers() for line in read_lines(job.folder.curves, CurveLine)[-1:]] or [{}]
    shown = {"loss": ".4g", "batch_r2": ".4f", "l0": ".1f", "dead_latents": ",.0f"}
    numbers = [_number(last[0].get(name), spelled) for name, spelled in shown.items()]
    notes = f"diverged: {ending.reason}" if ending.status == "diverged" else ""
    if ending.stopped_at_step is not None:
        notes = f"stopped early; weights of step {ending.best_step or ending.n_steps:,}"
    steps, rate = _number(ending.n_steps, ",d"), _number(speed, ",.0f")
    return (job.variant_name, job.route.name, steps, *numbers, rate, notes)


def _number(value: Measure, spelled: str) -> str:
    return "-" if value is None else format(value, spelled)
