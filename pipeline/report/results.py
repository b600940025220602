"""The tables: results of each site, results.csv with every metric, and how well the batches were mixed."""

import re
from typing import NamedTuple

from strata_sae.pipeline.pages.tables import csv_text
from strata_sae.pipeline.pages.text import UNKNOWN, count, show
from strata_sae.pipeline.report.labels import LABELS
from strata_sae.pipeline.report.matched_l0 import kind_of, nearest_to_target, target_l0
from strata_sae.pipeline.report.run_data import Run, Trained
from strata_sae.pipeline.runs.evaluation_records import Measured, other_form, way_of
from strata_sae.pipeline.runs.records import CurveLine, LoaderLine

CURVE_DEFINITIONS = {
    "batch_r2": "1 - sum ||x - xhat||^2 / sum ||x - mean of the batch||^2, of one training batch.",
    "loss": "All terms of the variant's objective, weighted, of one training batch, in units of the rows that training "
    "saw (training.input_scale).",
    "l0": "Mean number of active latents of a row, of one training batch, as training selects them.",
    "dead_latents": "Latents active on none of the last dead_after_rows rows of training.",
    "heldout/loss": "The objective with every schedule at its end, of the held-out rows that training measured.",
    "heldout/r2": "1 - sum ||x - xhat||^2 / sum ||x - mean||^2, of the same rows, latents selected as in training.",
    "decoder_max_cosine_mean": "As in the table, of the weights at that step.",
    "orthogonality/competing_pairs": "Pairs of latents that are active together in one training batch and have c above "
    "0.",
}
IN_TABLE = (
    "l0",
    "r2_pooled",
    "cosine_similarity",
    "norm_ratio",
    "relative_reconstruction_bias",
    "mse_per_dim",
    "dead_latents",
    "density_median",
    "token_f1",
    "detection_balanced_accuracy",
    "detection_lift",
    "decoder_max_cosine_mean",
    "decoder_max_cosine_p95",
)
"""Metrics that have a column on the page, as many as fit the width of a screen; results.csv has all."""
COUNTED = ("waits", "n_bytes", "steps")
ADDED_UP = tuple(name for name in LoaderLine.model_fields if name.endswith("seconds") or name in COUNTED)
"""Keys of the loader's log whose lines are summed; the others are alike in all lines of one batch size and seed."""
MIXING_HEADS = ("batches of", "documents in one", "positions in one", "variance ratio", "read", "decoding", "waiting")
SHOWN, OTHERS = "mixing/documents_ratio", "all_but_special/"


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
    """An SAE of a table, as it encodes by one way of inference. `status`: what is to be said beside its name."""

    key: str
    """By which it is sorted, and which no other row of the table has."""
    variant: str
    status: str
    cells: list[Cell]


class Table(NamedTuple):
    """The results at one site."""

    columns: list[Column]
    rows: list[Row]


def metric_names(run: Run) -> list[str]:
    """Every metric any SAE of the run has, the known ones first."""
    found = {name for sae in run.trained for name in sae.measured}
    return [name for name in LABELS if name in found] + sorted(found - set(LABELS))


def result_tables(run: Run) -> dict[str, Table]:
    """For each site the columns, and the rows with their cells as text and as sort keys."""
    target, nearest = target_l0(run), nearest_to_target(run)
    tables = {}
    for site in run.sites:
        saes = run.at(site)
        columns = columns_of(saes, metric_names(run), definitions(run))
        tables[site] = Table(columns, [])
        for sae in saes:
            mark = f"nearest L0 {target:g}" if (sae.variant, sae.site) in nearest else ""
            tables[site].rows.append(_row(sae, columns, mark))
            tables[site].rows.extend(_other_row(sae, columns, way) for way in _other_ways(sae))
    return tables


def columns_of(saes: list[Trained], metrics: list[str], units: dict[str, Measured]) -> list[Column]:
    """The columns of a table of these SAEs."""
    # What is scored of one of several sites that are written (r2_pooled/<site>) stands where it was measured.
    names = [name for name in metrics if "/" not in name or any(sae.value(name) is not None for sae in saes)]
    return [Column(name, _label_of(name), units[name].unit) for name in names if _in_table(name)]


def cells_of(sae: Trained, columns: list[Column]) -> list[Cell]:
    """What was measured of an SAE's own way of inference."""
    return [_cell(sae.value(column.name), column) for column in columns]


def _label_of(name: str) -> str:
    """The heading of a metric's column; of `r2_pooled/<site>` with the site behind it."""
    metric, _, site = name.partition("/")
    return f"{LABELS.get(metric, metric)}, {site}" if site else LABELS.get(name, name)


def definitions(run: Run) -> dict[str, Measured]:
    """Of every metric a record that states its unit and definition: the first SAE's, where they differ."""
    return {name: next(sae.measured[name] for sae in run.trained if name in sae.measured) for name in metric_names(run)}


def curve_definitions(run: Run) -> dict[str, str]:
    """What the curves of the page show, for the quantities that were logged."""
    return {name: pretty(text) for name, text in CURVE_DEFINITIONS.items() if name in run.logged}


def pretty(definition: str) -> str:
    """A definition in mathematical signs instead of ASCII."""
    text = definition.replace("xhat", "x\N{COMBINING CIRCUMFLEX ACCENT}").replace("^2", "²").replace("||", "‖")
    return re.sub(r"<([^<>]*)>", r"⟨\1⟩", text).replace(" - ", " \N{MINUS SIGN} ")


def _in_table(name: str) -> bool:
    """Whether a metric has a column on a page."""
    return name.partition("/")[0] in IN_TABLE and way_of(name) is None


def status_of(sae: Trained) -> str:
    """What is to be said beside an SAE's name; nothing where it is finished and scored."""
    if sae.refused:
        return "not shown"
    if sae.training is None:
        return "not finished"
    if sae.diverged:
        return f"diverged at step {count(sae.training.diverged_at_step)}"
    scored = "" if sae.metrics else "not scored"
    if sae.training.stopped_at_step is None:
        return scored
    return f"stopped early, weights of step {count(sae.training.best_step)} {scored}".rstrip()


def _row(sae: Trained, columns: list[Column], mark: str) -> Row:
    said = ", ".join(part for part in (status_of(sae), mark) if part)
    return Row(sae.variant, sae.variant, said, cells_of(sae, columns))


def _other_ways(sae: Trained) -> list[str]:
    """Ways of inference by which it was scored beside that of its `encode`."""
    names = sae.metrics.metrics if sae.metrics else []
    return list(dict.fromkeys(way for name in names if (way := way_of(name)) is not None))


def _other_row(sae: Trained, columns: list[Column], way: str) -> Row:
    """The same SAE by another way of inference; what follows from the weights alone stays as it is."""
    names = [other_form(column.name, way) for column in columns]
    names = [name if name in sae.measured else column.name for name, column in zip(names, columns, strict=True)]
    # Token labels and explanations are of the codes, which are encoded by its own way.
    of_codes = {name for record in (sae.labels, sae.interpretation) if record for name in record.metrics}
    values = [None if name in of_codes else sae.value(name) for name in names]
    return Row(other_form(sae.variant, way), sae.variant, f"by {way}", list(map(_cell, values, columns)))


def _cell(value: float | None, column: Column) -> Cell:
    return Cell(value, show(value, column.unit))


def results_csv(run: Run) -> str:
    """One line per SAE, every metric with its unit in the header; no cell can become a formula.

    Columns of another population than that of training's filters begin with its name and a slash.
    """
    units = {name: entry.unit for name, entry in definitions(run).items()}
    others = {name: entry.unit for name, entry in _of_others(run).items()}
    fixed = ["variant", "site", "architecture", "d_sae", "status", "steps", "split", "rows scored", "store_id"]
    fixed += ["kind", "nearest target L0"]
    target, nearest = target_l0(run), nearest_to_target(run)
    rows: list[list[str | float | None]] = [[*fixed, *(f"{name} [{unit}]" for name, unit in (units | others).items())]]
    for sae in (sae for site in run.sites for sae in run.at(site)):
        cells: list[str | float | None] = [sae.variant, sae.site]
        cells += [sae.config.sae.architecture, sae.config.sae.d_sae] if sae.config else [None] * 2
        cells += sae.ending
        cells += [sae.metrics.split, sae.metrics.n_rows, sae.metrics.store_id] if sae.metrics else [None] * 3
        cells += [kind_of(run, sae.variant), target if (sae.variant, sae.site) in nearest else None]
        rows.append([*cells, *(sae.value(name) for name in units), *(_of_other(sae, name) for name in others)])
    return csv_text(rows)


def _of_others(run: Run) -> dict[str, Measured]:
    """The metrics of the population of all rows but special tokens, by their names in results.csv."""
    scores = [sae.metrics.all_but_special for sae in run.trained if sae.metrics and sae.metrics.all_but_special]
    return {f"{OTHERS}{name}": entry for of_sae in scores for name, entry in of_sae.metrics.items()}


def _of_other(sae: Trained, name: str) -> float | None:
    others = sae.metrics.all_but_special if sae.metrics else None
    measured = others.metrics.get(name.removeprefix(OTHERS)) if others else None
    return measured.value if measured else None


def loader_totals(lines: list[LoaderLine]) -> list[LoaderLine]:
    """The lines of a loader's log, added up for each batch size and seed; of what is no sum, the last."""
    totals: dict[tuple[int, int], LoaderLine] = {}
    for line in lines:
        key = (line.batch_size, line.seed)
        before = totals.get(key)
        sums = {name: getattr(before, name) + getattr(line, name) for name in ADDED_UP} if before else {}
        totals[key] = line.model_copy(update=sums)
    return list(totals.values())


def mixing_table(run: Run) -> list[tuple[str, list[str]]]:
    """For each site, batch size and seed: (what, one cell for each of MIXING_HEADS)."""
    table = []
    for site in run.sites:
        logs = {(total.batch_size, total.seed): total for total in loader_totals(run.loader.get(site, []))}
        for key in dict.fromkeys(_key(sae) for sae in run.at(site)):
            lines = max((_measured(sae) for sae in run.at(site) if _key(sae) == key), key=len)
            log = logs.get(key) if key else None
            if lines or log:
                batches = f"{count(key[0])} rows, seed {count(key[1])}" if key else UNKNOWN
                table.append((site, [batches, *_mixed(lines, log), *_speed(log)]))
    return table


def _key(sae: Trained) -> tuple[int, int] | None:
    """Batch size and seed of what an SAE was trained on: those of the lines of its loader's log."""
    return (sae.config.training.batch_size, sae.config.seed) if sae.config else None


def _measured(sae: Trained) -> list[CurveLine]:
    return [line for line in sae.curves if line.value(SHOWN) is not None]


def _mixed(lines: list[CurveLine], log: LoaderLine | None) -> list[str]:
    predicted = log.predicted_variance_ratio if log else None
    measured = _mean(lines, "mixing/variance_ratio")
    return [
        _of_perfect(lines, "documents"),
        _of_perfect(lines, "positions"),
        f"{_ratio(predicted)} predicted, {_ratio(measured)} measured",
    ]


def _of_perfect(lines: list[CurveLine], name: str) -> str:
    """A count and what it is of a perfect shuffle's: of the first batch, and of all that were logged."""
    if not lines:
        return UNKNOWN
    first, key = lines[0].value(f"mixing/{name}_ratio"), f"mixing/{name}"
    whole = _mean(lines, f"{key}_ratio")
    return f"{count(_mean(lines, key))} ({_percent(whole)} of a perfect shuffle; first batch {_percent(first)})"


def _speed(log: LoaderLine | None) -> list[str]:
    """Dashes where this process filled no window: another one did (shared windows), or an earlier version ran."""
    if log is None:
        return [UNKNOWN] * 3
    fill, threads, waited = log.fill_seconds, log.thread_seconds, log.wait_seconds
    return [
        f"{count(log.n_bytes / fill / 1e6)} MB/s" if fill > 0 else UNKNOWN,
        _percent(log.decode_seconds / threads) if threads > 0 else UNKNOWN,
        f"{waited:.2f} of {log.seconds:.1f} s (stalls: {count(log.waits)})" if waited > 0 else UNKNOWN,
    ]


def _mean(lines: list[CurveLine], name: str) -> float | None:
    values = [value for line in lines if (value := line.value(name)) is not None]
    return sum(value / len(values) for value in values) if values else None


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.0f} %"


def _ratio(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"
