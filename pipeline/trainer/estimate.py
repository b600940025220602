"""How long training takes here: a few updates of each kind of SAE are timed, and nothing is decided by it."""

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.available import free_bytes
from strata_sae.pipeline.progress import duration
from strata_sae.pipeline.reading.feed import Feed
from strata_sae.pipeline.runs.record_files import fingerprint
from strata_sae.pipeline.saes.base import Workspace
from strata_sae.pipeline.trainer.jobs import Job
from strata_sae.pipeline.trainer.one_pass import new_trainee
from strata_sae.pipeline.trainer.passes import Pass
from strata_sae.pipeline.trainer.trainee import Trainee
from strata_sae.stores import Together

N_UPDATES = 3
"""Updates that are timed of each kind, after one that is not; of three the median is one that nothing disturbed."""


class PassRate(NamedTuple):
    """What was measured of a pass."""

    seconds_per_update: dict[str, float]
    """Of each job, by name."""
    seconds_per_batch: float
    """To read one batch; reading goes on while SAEs learn."""


def measured_rates(passes: Sequence[Pass], stores: Together, device: torch.device) -> list[PassRate]:
    """The rates of the passes: real updates on rows of the store, at the start of training; nothing is kept."""
    return [_measured(pass_, stores, device) for pass_ in passes]


def _measured(pass_: Pass, stores: Together, device: torch.device) -> PassRate:
    n_batches = 1 + N_UPDATES
    # A small window: only as much is read as is learnt from.
    stream = replace(pass_.stream, window_rows=n_batches * pass_.training.batch_size, shared=None)
    with closing(Feed(pass_.route, stores, stream, pass_.scaling, device)) as feed:
        batches = [feed.batch(step) for step in range(n_batches)]
        totals, row_bytes = feed.batches.clock.totals(), pass_.row_bytes
    seconds: dict[str, float] = {}
    of_kind: dict[str, float] = {}
    for job in pass_.jobs:
        kind = _kind(job)
        if kind not in of_kind:
            trainee = new_trainee(job, pass_, stores, device, Workspace(pass_.training.encoder))
            of_kind[kind] = _seconds(trainee, [(rows.x_BM, rows.target_BM) for rows in batches])
        seconds[job.name] = of_kind[kind]
    per_byte = totals.fill_seconds / totals.n_bytes if totals.n_bytes else 0.0
    return PassRate(seconds, per_byte * row_bytes * pass_.training.batch_size)


def _kind(job: Job) -> str:
    """SAEs of one kind take equally long: their architecture, width, terms and training settings are the same."""
    record = job.record.model_dump(mode="json", include={"sae", "objective", "training", "resampling"})
    return fingerprint(record)


def _seconds(trainee: Trainee, batches: list[tuple[Tensor, Tensor | None]]) -> float:
    """The median seconds of an update."""
    seconds = []
    for x_BM, target_BM in batches:
        began = time.perf_counter()
        trainee.update(x_BM, target_BM)  # it hands its loss to the CPU, and so waits for the device
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def seconds_left(pass_: Pass, rate: PassRate, done: Mapping[str, int]) -> float:
    """Seconds that a pass takes: its updates one after the other, or the reading of its batches if that is longer.

    done: updates that each job has behind it, by name; 0 where it is not there.
    """
    n_steps = pass_.training.n_steps
    left = {job.name: max(0, n_steps - done.get(job.name, 0)) for job in pass_.jobs}
    updates = sum(left[name] * rate.seconds_per_update[name] for name in left)
    return max(updates, max(left.values()) * rate.seconds_per_batch)


def steps_done(job: Job) -> int:
    """Updates up to the newest checkpoint of a job, by its name; 0 without one."""
    names = [path.name.removeprefix("step_") for path in job.folder.checkpoints.glob("step_*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def estimate_lines(passes: Sequence[Pass], rates: Sequence[PassRate], device: torch.device) -> list[str]:
    """What is left to train takes so long; a line for each pass where there are several. Says what that rests on."""
    if not passes:
        return []
    times = [
        seconds_left(pass_, rate, {job.name: steps_done(job) for job in pass_.jobs})
        for pass_, rate in zip(passes, rates, strict=True)
    ]
    lines = []
    for pass_, rate, seconds in zip(passes, rates, times, strict=True):
        per_second = 1.0 / sum(rate.seconds_per_update.values())
        lines.append(
            f"{pass_.route.name}: about {duration(seconds)} for {pass_.training.n_steps:,} steps: {per_second:,.3g} "
            f"steps a second of all {len(pass_.jobs)} SAEs, {1e3 * rate.seconds_per_batch:,.3g} ms to read a batch"
        )
    on = f"cpu with {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
    total = (
        f"about {duration(sum(times))} in all on {on}, and {free_bytes(device) / 1e9:.2f} GB of memory are free now "
        f"(measured now: {N_UPDATES} updates of each kind of SAE, as they are at the start of training; what is "
        "written, calibrated and scored comes on top)"
    )
    return [*lines, total]
