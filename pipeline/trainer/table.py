"""How training went, one line per SAE: what the last lines of the curves say."""

from collections.abc import Mapping
from typing import Any

from strata_sae.pipeline.runs import RunFolder, VariantFolder, read_record
from strata_sae.pipeline.runs.curve_lines import read_curves
from strata_sae.pipeline.runs.records import Ending
from strata_sae.pipeline.trainer.groups import Job

HEADINGS = ("variant", "site", "steps", "loss", "r2", "l0", "dead", "tokens/s", "")


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
    ending = read_record(folder.training, Ending).data
    lines = read_curves(folder.curves)
    last = lines[-1] if lines else {}
    numbers = [
        _number(last.get(key), spelled) for key, spelled in (("loss", ".4g"), ("batch_r2", ".4f"), ("l0", ".1f"))
    ]
    steps, dead = _number(ending.get("n_steps"), ",d"), _number(last.get("dead_latents"), ",.0f")
    diverged = f"diverged: {ending.get('reason')}" if ending["status"] == "diverged" else ""
    return (job.variant_name, job.site, steps, *numbers, dead, _number(speed, ",.0f"), diverged)


def _number(value: Any, spelled: str) -> str:
    return "-" if value is None else format(value, spelled)
