"""The results as tables: one per site on the page, and results.csv with every metric."""

import csv
import io
import re
from typing import Any

from strata_sae.pipeline.report.facts import UNKNOWN, count
from strata_sae.pipeline.report.run_data import Run, Trained
from strata_sae.pipeline.report.text import csv_cell

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
    "l0": "Mean number of nonzero codes of a row, of one training batch, as training selects them.",
    "dead_latents": "Latents that have not fired for the last dead_after_rows rows of training.",
    "decoder_max_cosine_mean": "As in the table, of the weights at that step.",
    "orthogonality/competing_pairs": "Pairs of latents that are on together often enough, in one training batch, "
    "for the orthogonality term to push them apart.",
}
DECIMALS = {"latents": 0, "latents per row": 1, "fraction of variance": 4, "cosine": 3, "ratio": 3}
ONLY_IN_CSV = ("sse", "alive_latents")


def metric_names(run: Run) -> list[str]:
    """Every metric any SAE of the run has, the known ones first."""
    found = {name for sae in run.trained for name in sae.metrics.get("metrics", {})}
    return [name for name in LABELS if name in found] + sorted(found - set(LABELS))


def result_tables(run: Run) -> dict[str, Any]:
    """For each site the columns, and the rows with their cells as text and as sort keys."""
    every = [name for name in metric_names(run) if name not in ONLY_IN_CSV]
    units = {name: entry["unit"] for name, entry in definitions(run).items()}
    tables = {}
    for site in run.sites:
        saes = run.at(site)
        # What is scored of one of several sites that are written (r2_pooled/<site>) stands where it was measured.
        names = [name for name in every if "/" not in name or any(sae.value(name) is not None for sae in saes)]
        columns = [{"label": _label(name), "unit": units[name], "name": name} for name in names]
        tables[site] = {"columns": columns, "rows": [_row(sae, names, units) for sae in saes]}
    return tables


def _label(name: str) -> str:
    metric, _, site = name.partition("/")
    return f"{LABELS.get(metric, metric)}, {site}" if site else LABELS.get(name, name)


def definitions(run: Run) -> dict[str, dict[str, str]]:
    """Unit and definition of every metric, as the SAEs' records state them."""
    stated = {}
    for name in metric_names(run):
        entry = next(sae.metrics["metrics"][name] for sae in run.trained if name in sae.metrics.get("metrics", {}))
        stated[name] = {"unit": str(entry.get("unit", "")), "definition": str(entry.get("definition", ""))}
    return stated


def curve_definitions(run: Run) -> dict[str, str]:
    """What the curves of the page show, for the quantities that were logged."""
    logged = {key for sae in run.trained for line in sae.curves for key in line}
    return {name: pretty(text) for name, text in CURVE_DEFINITIONS.items() if name in logged}


def pretty(definition: str) -> str:
    """A definition in mathematical signs instead of ASCII."""
    text = definition.replace("xhat", "x\N{COMBINING CIRCUMFLEX ACCENT}").replace("^2", "²").replace("||", "‖")
    return re.sub(r"<([^<>]*)>", r"⟨\1⟩", text).replace(" - ", " \N{MINUS SIGN} ")


def _row(sae: Trained, names: list[str], units: dict[str, str]) -> dict[str, Any]:
    if sae.refused:
        status = "not shown"
    elif sae.diverged:
        status = f"diverged at step {count(sae.training.get('diverged_at_step'))}"
    elif not sae.finished:
        status = "not finished"
    else:
        status = "" if sae.metrics else "not scored"
    cells = [{"key": sae.value(name), "text": show(sae.value(name), units[name])} for name in names]
    return {"variant": sae.variant, "status": status, "cells": cells}


def show(value: float | None, unit: str) -> str:
    """A number with as many digits as its unit is worth; a dash for what does not exist."""
    if value is None:
        return UNKNOWN
    if unit in DECIMALS:
        return f"{value:.{DECIMALS[unit]}f}" if DECIMALS[unit] else count(value)
    return f"{value:#.3g}" if abs(value) < 100 else count(value)


def results_csv(run: Run) -> str:
    """One line per SAE, every metric with its unit in the header; no cell can become a formula."""
    units = {name: entry["unit"] for name, entry in definitions(run).items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fixed = ["variant", "site", "architecture", "d_sae", "status", "steps", "split", "rows scored", "store_id"]
    writer.writerow([csv_cell(cell) for cell in fixed + [f"{name} [{unit}]" for name, unit in units.items()]])
    for sae in (sae for site in run.sites for sae in run.at(site)):
        settings = sae.config.get("sae", {})
        cells = [sae.variant, sae.site, settings.get("architecture"), settings.get("d_sae"), sae.training.get("status")]
        cells += [sae.training.get("n_steps"), sae.metrics.get("split"), sae.metrics.get("n_rows")]
        cells += [sae.metrics.get("store_id"), *(sae.value(name) for name in units)]
        writer.writerow([csv_cell(cell) for cell in cells])
    return text.getvalue()
