"""The scores of an SAE in short: what was measured, on which rows, and how sure it is."""

from collections.abc import Mapping

from pydantic import JsonValue

from strata_sae.pipeline.runs.addresses import run_of
from strata_sae.pipeline.runs.chain import check_metrics, read_model_metrics
from strata_sae.pipeline.runs.comparison_records import Comparisons
from strata_sae.pipeline.runs.evaluation_records import Measured, Metrics
from strata_sae.pipeline.runs.judging_records import Estimate, ModelMetrics
from strata_sae.pipeline.runs.record_files import read_record
from strata_sae.pipeline.runs.trained import TrainedSAE

HEADLINE = ("l0", "r2_pooled", "mse_per_dim", "cosine_similarity", "dead_latents")
"""Metrics that say most of an SAE, if it has them."""

Facts = dict[str, JsonValue]


def headline_scores(trained: TrainedSAE) -> Facts:
    """Scores with their unit, definition, population, rows and, where records hold one, 95 % interval.

    Empty where nothing was measured of these very weights: not scored yet, or weights that training kept on its way.
    Raises: CheckpointError if scores lie beside the SAE that are of something else.
    """
    folder, record, training = trained.folder, trained.record, trained.training
    scores: Facts = {}
    if training.status != "finished":
        return scores
    if folder.metrics.exists():
        metrics = read_record(folder.metrics, Metrics).record
        check_metrics(folder, metrics, record, training)
        intervals = _intervals(trained, metrics)
        scores = {
            "split": metrics.split,
            "filters": metrics.filters.model_dump(mode="json"),
            "populations": {
                name: {
                    "n_rows": part.n_rows,
                    "n_documents": part.n_documents,
                    "metrics": _measured(part.metrics, intervals.get(name, {})),
                }
                for name, part in (("as_trained", metrics), ("all_but_special", metrics.all_but_special))
                if part is not None
            },
        }
    if folder.model_metrics.exists():
        scores["with_model"] = _with_model(read_model_metrics(folder, record, training).record)
    return scores


def _measured(metrics: Mapping[str, Measured], intervals: Mapping[str, Estimate]) -> Facts:
    found: Facts = {}
    for name in HEADLINE:
        if name in metrics:
            found[name] = metrics[name].model_dump(mode="json") | {"interval": _interval(intervals.get(name))}
    return found


def _intervals(trained: TrainedSAE, metrics: Metrics) -> dict[str, dict[str, Estimate]]:
    """Population -> metric -> estimate, from the comparisons of the run; none where they are of other scores."""
    path = run_of(trained.folder).comparisons
    if not path.exists():
        return {}
    found: dict[str, dict[str, Estimate]] = {}
    for table in read_record(path, Comparisons).record.tables:
        for sae in table.saes:
            if sae.name == trained.name and sae.fingerprint == metrics.fingerprint:
                found.setdefault(table.population, {}).update({table.metric: sae.value, "l0": sae.l0})
    return found


def _with_model(losses: ModelMetrics) -> Facts:
    forms: Facts = {
        name: {
            "n_replaced_rows": form.n_replaced_rows,
            "ce_recovered": _estimate(form.ce_recovered),
            "kl_recovered": _estimate(form.kl_recovered),
            "cross_entropy": _estimate(form.with_sae.cross_entropy),
        }
        for name, form in losses.forms.items()
    }
    return {
        "model": losses.model.name,
        "n_rows": losses.n_rows,
        "n_documents": losses.n_documents,
        "clean_cross_entropy": _estimate(losses.clean_cross_entropy),
        "forms": forms,
    }


def _estimate(estimate: Estimate) -> Facts:
    return {"value": estimate.value, "interval": _interval(estimate)}


def _interval(estimate: Estimate | None) -> JsonValue:
    """[low, high] of 95 %; null where there is none."""
    return [estimate.interval.low, estimate.interval.high] if estimate and estimate.interval else None
