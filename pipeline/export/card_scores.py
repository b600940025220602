"""Scores as tables of a card: each number beside its population, its rows and documents, and its interval."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.export.markdown import escaped
from strata_sae.pipeline.export.picture import Point
from strata_sae.pipeline.export.shared import SharedSAE
from strata_sae.pipeline.pages.text import UNKNOWN, masked
from strata_sae.pipeline.reading.intervals import MIN_DOCUMENTS, ratio
from strata_sae.pipeline.runs.chain import read_model_metrics, read_per_document
from strata_sae.pipeline.runs.evaluation_records import Measured, Metrics
from strata_sae.pipeline.runs.judging_records import DocumentSums, Estimate, Interval, ModelMetrics, PopulationName
from strata_sae.stores import plain_text

_POPULATIONS: dict[PopulationName, str] = {
    "as_trained": "rows that pass the filters of training",
    "all_but_special": "all rows but those of BOS and special tokens",
}
_SHOWN = {
    "r2_pooled": "R²",
    "l0": "L0",
    "mse_per_dim": "MSE per dimension",
    "cosine_similarity": "cosine",
    "dead_latents": "dead latents",
}
_FORMS = {
    "population": "the rows that pass the filters of training",
    "saebench": "all rows but those of special tokens (SAEBench)",
}
_NO_INTERVAL = f"a dash stands where there is none: of other scores, and below {MIN_DOCUMENTS} documents."
_MEANT = [f"- {population.replace('_', ' ')}: {meant}" for population, meant in _POPULATIONS.items()]
Table = list[str]


class Score(NamedTuple):
    """A number of one population."""

    population: PopulationName
    n_rows: int
    n_documents: int
    metric: str
    measured: Measured
    interval: Interval | None


def scores_of(sae: SharedSAE) -> list[Score]:
    """The headline scores of every population; intervals are over documents, of 95 %, where the sums are there."""
    metrics, sums = sae.metrics, _sums(sae)
    if metrics is None:
        return []
    found = []
    for population, part in (("as_trained", metrics), ("all_but_special", metrics.all_but_special)):
        name: PopulationName = "as_trained" if population == "as_trained" else "all_but_special"
        intervals = _intervals(sums[name]) if name in sums else {}
        for metric in _SHOWN if part else ():
            if part and metric in part.metrics:
                interval = intervals.get(metric)
                found.append(Score(name, part.n_rows, part.n_documents, metric, part.metrics[metric], interval))
    return found


def _sums(sae: SharedSAE) -> dict[PopulationName, DocumentSums]:
    folder = sae.trained.folder
    if sae.metrics is None or folder.per_document.name not in sae.names:
        return {}
    return read_per_document(folder, sae.metrics).record.populations


def _intervals(sums: DocumentSums) -> dict[str, Interval | None]:
    """Metric -> its interval over documents, as comparisons have it (docs/decisions/0027)."""
    error, centred, active, rows = (
        np.asarray(part, dtype=np.float64)
        for part in (sums.error_square, sums.centred_square, sums.active, sums.n_rows)
    )
    return {
        "r2_pooled": ratio(error, centred, minus_from=1.0).estimate.interval,
        "l0": ratio(active, rows).estimate.interval,
    }


def scores_table(scores: Sequence[Score], metrics: Metrics) -> Table:
    """A table of one SAE's scores, and what they mean."""
    lines = ["| population | rows | documents | score | value | 95 % interval |", "|---|---|---|---|---|---|"]
    for score in scores:
        population = score.population.replace("_", " ")
        lines.append(
            f"| {population} | {score.n_rows:,} | {score.n_documents:,} | {_SHOWN[score.metric]} "
            f"| {_number(score.measured.value)} | {_span(score.interval)} |"
        )
    meant = {score.metric: score.measured for score in scores}
    words = _MEANT + [f"- {_SHOWN[name]}: {escaped(one.definition)}" for name, one in meant.items()]
    about = f"Measured on the split `{plain_text(metrics.split)}`. Intervals are over documents; {_NO_INTERVAL}"
    return ["\n".join(lines), about, "\n".join(words)]


def losses_table(sae: SharedSAE) -> Table:
    """What the language model loses with the reconstruction in the place of its rows; nothing where not measured."""
    trained = sae.trained
    if trained.folder.model_metrics.name not in sae.names:
        return []
    losses = read_model_metrics(trained.folder, trained.record, trained.training).record
    lines = [
        "| rows with the reconstruction | rows measured | documents | loss | value | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    for form, found in losses.forms.items():
        where = f"{_FORMS[form]}: {found.n_replaced_rows:,}"
        lines.append(_loss(where, losses, "cross-entropy recovered", found.ce_recovered))
        lines.append(_loss(where, losses, "KL recovered", found.kl_recovered))
        lines.append(_loss(where, losses, "cross-entropy (nat)", found.with_sae.cross_entropy))
    lines.append(_loss("nothing: the model as it is", losses, "cross-entropy (nat)", losses.clean_cross_entropy))
    model = escaped(str(masked(losses.model.name)))
    words = f"With the reconstruction in the place of rows of {model}; 1 is no loss, 0 that of zeros in its place."
    return ["### Losses of the language model", words, "\n".join(lines)]


def _loss(where: str, losses: ModelMetrics, name: str, estimate: Estimate) -> str:
    value, span = _number(estimate.value), _span(estimate.interval)
    return f"| {where} | {losses.n_rows:,} | {losses.n_documents:,} | {name} | {value} | {span} |"


def overview_table(saes: Sequence[SharedSAE]) -> Table:
    """A line for each SAE of a run and population."""
    lines = ["| SAE | latents | population | rows | documents | L0 | R² |", "|---|---|---|---|---|---|---|"]
    for sae in saes:
        by_population: dict[str, dict[str, Score]] = {}
        for score in scores_of(sae):
            by_population.setdefault(score.population, {})[score.metric] = score
        name, width = plain_text(sae.name), sae.trained.record.sae.d_sae
        if not by_population:
            lines.append(f"| `{name}` | {width:,} | not scored" + f" | {UNKNOWN}" * 4 + " |")
        for population, scores in by_population.items():
            one = next(iter(scores.values()))
            cells = [_with_span(scores.get(metric)) for metric in ("l0", "r2_pooled")]
            lines.append(
                f"| `{name}` | {width:,} | {population.replace('_', ' ')} | {one.n_rows:,} | {one.n_documents:,} "
                f"| {cells[0]} | {cells[1]} |"
            )
    about = "In brackets: 95 % intervals over documents. Two SAEs whose L0 differ are not ranked by R²."
    return ["\n".join(lines), about, "\n".join(_MEANT)]


def points_of(saes: Sequence[SharedSAE]) -> tuple[str, list[Point]]:
    """L0 and R2 of the scored SAEs of one site, the one that has most of them, on the rows that training saw."""
    points: dict[str, list[Point]] = {}
    for sae in saes:
        scores = {name: one.value for name, one in sae.metrics.metrics.items()} if sae.metrics else {}
        l0, r2 = scores.get("l0"), scores.get("r2_pooled")
        if l0 is not None and r2 is not None:
            points.setdefault(sae.trained.record.site, []).append(Point(sae.trained.record.variant, l0, r2))
    return max(points.items(), key=lambda site: len(site[1]), default=("", []))


def _with_span(score: Score | None) -> str:
    if score is None:
        return UNKNOWN
    span = f" ({_span(score.interval)})" if score.interval else ""
    return f"{_number(score.measured.value)}{span}"


def _span(interval: Interval | None) -> str:
    return f"{interval.low:.4g} to {interval.high:.4g}" if interval else UNKNOWN


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
