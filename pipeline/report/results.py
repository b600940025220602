"""The results as tables: one per site on the page, and results.csv with every metric."""

import csv
import io
import re
from typing import NamedTuple

from strata_sae.pipeline.pages.text import csv_cell
from strata_sae.pipeline.report.facts import UNKNOWN, count
from strata_sae.pipeline.report.run_data import Run, Trained

LABELS = {
    "l0": "L0",
    "r2_pooled": "R²",
    "cosine_similarity": "cosine",
    "norm_ratio": "norm ratio",
    "relative_reconstruction_bias": "bias",
    "mse_per_dim": "MSE / dim",
    "sse": "SSE",
    "dead_latents": "dead",
    "alive_latents": "alive",
    "density_median": "density",
    "decoder_max_cosine_mean": "max cos, mean",
    "decoder_max_cosine_p95": "max cos, p95",
}
CURVE_DEFINITIONS = {
    "batch_r2": "1 - sum ||x - xhat||^2 / sum ||x - mean of the batch||^2, of one training batch.",
    "loss": "All terms of the variant's objective, weighted, of one training batch of rows scaled to E ||x||^2 = 1.",
    "l0": "Mean number of active latents of a row, of one training batch, as training selects them.",
    "dead_latents": "Latents active on none of the last dead_after_rows rows of training.",
    "decoder_max_cosine_mean": "As in the table, of the weights at that step.",
    "orthogonality/competing_pairs": "Pairs of latents that are active together often enough, in one training batch, "
    "for the orthogonality term to push them apart.",
}
DECIMALS = {"latents": 0, "latents per row": 1, "fraction of variance": 4, "cosine": 3, "ratio": 3}
ONLY_IN_CSV = ("sse", "alive_latents")


class Column(NamedTuple):
    """A metric of a table."""

    name: str
    label: str
    unit: str


class Cell(NamedTuple):
    """A number of a table: by which it is sorted, and as it is shown."""

    key: float | None
    text: str


class Row(NamedTuple):
    """An SAE of a table. `status`: what is to be said beside its name."""

    variant: str
    status: str
    cells: list[Cell]


class Table(NamedTuple):
    """The results at one site."""

    columns: list[Column]
    rows: list[Row]


class Definition(NamedTuple):
    """What a metric is."""

    unit: str
    definition: str


def metric_names(run: Run) -> list[str]:
    """Every metric any SAE of the run has, the known ones first."""
    found = {name for sae in run.trained if sae.metrics for name in sae.metrics.metrics}
    return [name for name in LABELS if name in found] + sorted(found - set(LABELS))


def result_tables(run: Run) -> dict[str, Table]:
    """For each site the columns, and the rows with their cells as text and as sort keys."""
    every = [name for name in metric_names(run) if name not in ONLY_IN_CSV]
    units = {name: entry.unit for name, entry in definitions(run).items()}
    tables = {}
    for site in run.sites:
        saes = run.at(site)
        # What is scored of one of several sites that are written (r2_pooled/<site>) stands where it was measured.
        names = [name for name in every if "/" not in name or any(sae.value(name) is not None for sae in saes)]
        columns = [Column(name, _label(name), units[name]) for name in names]
        tables[site] = Table(columns, [_row(sae, columns) for sae in saes])
    return tables


def _label(name: str) -> str:
    metric, _, site = name.partition("/")
    return f"{LABELS.get(metric, metric)}, {site}" if site else LABELS.get(name, name)


def definitions(run: Run) -> dict[str, Definition]:
    """Unit and definition of every metric, as the SAEs' records state them; where they differ, the first one's."""
    measured = [sae.metrics.metrics for sae in run.trained if sae.metrics]
    first = {name: next(of_sae[name] for of_sae in measured if name in of_sae) for name in metric_names(run)}
    return {name: Definition(entry.unit, entry.definition) for name, entry in first.items()}


def curve_definitions(run: Run) -> dict[str, str]:
    """What the curves of the page show, for the quantities that were logged."""
    return {name: pretty(text) for name, text in CURVE_DEFINITIONS.items() if name in run.logged}


def pretty(definition: str) -> str:
    """A definition in mathematical signs instead of ASCII."""
    text = definition.replace("xhat", "x\N{COMBINING CIRCUMFLEX ACCENT}").replace("^2", "²").replace("||", "‖")
    return re.sub(r"<([^<>]*)>", r"⟨\1⟩", text).replace(" - ", " \N{MINUS SIGN} ")


def _row(sae: Trained, columns: list[Column]) -> Row:
    if sae.refused:
        status = "not shown"
    elif sae.training is None:
        status = "not finished"
    elif sae.diverged:
        status = f"diverged at step {count(sae.training.diverged_at_step)}"
    else:
        status = "" if sae.metrics else "not scored"
    values = [sae.value(column.name) for column in columns]
    cells = [Cell(value, show(value, column.unit)) for value, column in zip(values, columns, strict=True)]
    return Row(sae.variant, status, cells)


def show(value: float | None, unit: str) -> str:
    """A number with as many digits as its unit is worth; a dash for what does not exist."""
    if value is None:
        return UNKNOWN
    if unit in DECIMALS:
        return f"{value:.{DECIMALS[unit]}f}" if DECIMALS[unit] else count(value)
    return f"{value:#.3g}" if abs(value) < 100 else count(value)


def results_csv(run: Run) -> str:
    """One line per SAE, every metric with its unit in the header; no cell can become a formula."""
    units = {name: entry.unit for name, entry in definitions(run).items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fixed = ["variant", "site", "architecture", "d_sae", "status", "steps", "split", "rows scored", "store_id"]
    writer.writerow([csv_cell(cell) for cell in fixed + [f"{name} [{unit}]" for name, unit in units.items()]])
    for sae in (sae for site in run.sites for sae in run.at(site)):
        cells: list[str | float | None] = [sae.variant, sae.site]
        cells += [sae.config.sae.architecture, sae.config.sae.d_sae] if sae.config else [None] * 2
        cells += [sae.training.status, sae.training.n_steps] if sae.training else [None] * 2
        cells += [sae.metrics.split, sae.metrics.n_rows, sae.metrics.store_id] if sae.metrics else [None] * 3
        writer.writerow([csv_cell(cell) for cell in [*cells, *(sae.value(name) for name in units)]])
    return text.getvalue()
