"""How training went, one line per SAE: what the last lines of the curves say."""

from collections.abc import Mapping

from strata_sae.pipeline.runs import RunFolder, VariantFolder, read_record
from strata_sae.pipeline.runs.record_files import read_lines
from strata_sae.pipeline.runs.records import CurveLine, Ending, Measure
from strata_sae.pipeline.trainer.groups import Job

HEADINGS = ("variant", "site", "steps", "loss", "r2", "l0", "dead", "rows/s", "")


def table(run: RunFolder, jobs: list[Job], rows_per_second: Mapping[str, float]) -> list[str]:
    """Aligned lines: a heading, then every job that is done; the speed of those trained just now."""
    rows = [_row(job, run.variant(job.name), rows_per_second.get(job.name)) for job in jobs]
    cells = [HEADINGS, *(row for row in rows if row is not None)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADINGS))]
    return ["  ".join(_aligned(row, widths)).rstrip() for row in cells]


def _aligned(row: tuple[str, ...], widths: list[int]) -> list[str]:
    numbers_from = 2
    return [
        cell.rjust(width) if numbers_from <= column < len(row) - 1 else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _row(job: Job, folder: VariantFolder, speed: float | None) -> tuple[str, ...] | None:
    if not folder.training.exists():
        return None
    ending = read_record(folder.training, Ending).record
    last = [line.numbers() for line in read_lines(folder.curves, CurveLine)[-1:]] or [{}]
    shown = {"loss": ".4g", "batch_r2": ".4f", "l0": ".1f", "dead_latents": ",.0f"}
    numbers = [_number(last[0].get(name), spelled) for name, spelled in shown.items()]
    diverged = f"diverged: {ending.reason}" if ending.status == "diverged" else ""
    steps, rate = _number(ending.n_steps, ",d"), _number(speed, ",.0f")
    return (job.variant_name, job.site, steps, *numbers, rate, diverged)


def _number(value: Measure, spelled: str) -> str:
    return "-" if value is None else format(value, spelled)
