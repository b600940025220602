"""What training says when it is done: a line for each SAE."""

from collections.abc import Mapping

from strata_sae.pipeline.pages.tables import aligned
from strata_sae.pipeline.runs.record_files import read_lines, read_record
from strata_sae.pipeline.runs.records import CurveLine, Ending, Measure
from strata_sae.pipeline.trainer.jobs import Job

HEADINGS = ("variant", "site", "steps", "loss", "r2", "l0", "dead", "rows/s", "")


def table(jobs: list[Job], rows_per_second: Mapping[str, float]) -> list[str]:
    """A heading, then a line for every job that is done; the speed of those that were trained just now."""
    rows = [_row(job, rows_per_second.get(job.name)) for job in jobs if job.folder.training.exists()]
    # Numbers stand between the two names and the last cell.
    return aligned([HEADINGS, *rows], range(2, len(HEADINGS) - 1))


def _row(job: Job, speed: float | None) -> tuple[str, ...]:
    ending = read_record(job.folder.training, Ending).record
    last = [line.numbers() for line in read_lines(job.folder.curves, CurveLine)[-1:]] or [{}]
    shown = {"loss": ".4g", "batch_r2": ".4f", "l0": ".1f", "dead_latents": ",.0f"}
    numbers = [_number(last[0].get(name), spelled) for name, spelled in shown.items()]
    notes = f"diverged: {ending.reason}" if ending.status == "diverged" else ""
    if ending.stopped_at_step is not None:
        notes = f"stopped early; weights of step {ending.best_step or ending.n_steps:,}"
    steps, rate = _number(ending.n_steps, ",d"), _number(speed, ",.0f")
    return (job.label, job.route.name, steps, *numbers, rate, notes)


def _number(value: Measure, spelled: str) -> str:
    return "-" if value is None else format(value, spelled)
