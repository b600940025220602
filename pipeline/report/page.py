"""Stage 4: a run folder -> report.html, one self-contained page, and results.csv."""

import re
from pathlib import Path

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from strata_sae.pipeline.pages.page import file_text, policy, template
from strata_sae.pipeline.pages.text import script_json, visible
from strata_sae.pipeline.report.facts import environment_facts, run_facts, store_facts, uneven_sites, variant_facts
from strata_sae.pipeline.report.leaves import record_tables
from strata_sae.pipeline.report.mixing import HEADS, mixing_table
from strata_sae.pipeline.report.results import curve_definitions, definitions, pretty, result_tables, results_csv
from strata_sae.pipeline.report.run_data import Run, Trained, read_run
from strata_sae.pipeline.report.statement import statement
from strata_sae.pipeline.runs import RunFolder, write_bytes
from strata_sae.pipeline.runs.evaluation_records import Histogram
from strata_sae.pipeline.runs.migration import JsonObject

REPORT = "strata_sae.pipeline.report"
N_COLOURS = 10
COSINES, PAIRS = "decoder_max_cosine_mean", "orthogonality/competing_pairs"
CURVES = ("batch_r2", "loss", "l0", "dead_latents", COSINES, PAIRS)
MAX_CURVE_POINTS = 400
"""Points of a curve: a figure is about that many pixels wide."""


def write_report(run_folder: Path, title: str | None = None) -> Path:
    """Write report.html (self-contained) and results.csv; returns the page's path.

    Raises: CheckpointError if nothing has been trained in the folder.
    """
    run, folder = read_run(run_folder), RunFolder(run_folder)
    write_bytes(folder.results, results_csv(run).encode("utf-8"))
    write_bytes(folder.report, render(run, title).encode("utf-8"))
    return folder.report


def render(run: Run, title: str | None) -> str:
    """The whole page as one string."""
    style, plotly, script = file_text("style.css"), get_plotlyjs(), file_text("report.js", REPORT)
    return template("report.html.jinja", REPORT).render(
        policy=policy([plotly, script], style),
        style=Markup(style),
        plotly=Markup(plotly),
        script=Markup(script),
        data=script_json(figures(run)),
        title=title or run.name,
        statement=statement(run),
        run_facts=run_facts(run),
        store_facts=store_facts(run),
        mixing_heads=HEADS,
        mixing_table=mixing_table(run),
        uneven=uneven_sites(run),
        tables=result_tables(run),
        definitions=definitions(run),
        pretty=pretty,
        curve_definitions=curve_definitions(run),
        environment_facts=environment_facts(run),
        variant_facts=variant_facts(run),
        record_tables=record_tables(run),
        run=run,
        legend=[{"variant": name, "colour": index % N_COLOURS} for index, name in enumerate(run.variants)],
        colour={name: index % N_COLOURS for index, name in enumerate(run.variants)},
        taken_ids=re.findall(r'getElementById\("([0-9a-f]{64})"\)', plotly),
        config_text=Markup.escape(visible(run.config_text, keep_lines=True)),
    )


def figures(run: Run) -> JsonObject:
    """The numbers behind every figure, by site and variant."""
    sites: JsonObject = {site: {sae.variant: _figure_data(sae) for sae in run.at(site)} for site in run.sites}
    return {"variants": [*run.variants], "sites": sites}


def _figure_data(sae: Trained) -> JsonObject:
    return {
        "diverged_at_step": sae.training.diverged_at_step if sae.training else None,
        "l0": sae.value("l0"),
        "r2": sae.value("r2_pooled"),
        "dead": sae.value("dead_latents"),
        "alive": sae.value("alive_latents"),
        "curves": {key: _series(sae, key) for key in CURVES},
        "density": _density(sae),
    }


def _density(sae: Trained) -> JsonObject:
    """The histogram from its first to its last filled bin, with an empty one on either side where there is one."""
    histogram = sae.metrics.density_histogram if sae.metrics else Histogram(log10_edges=[], counts=[])
    counts, edges = histogram.counts, histogram.log10_edges
    filled = [place for place, n in enumerate(counts) if n]
    if not filled:
        return {"edges": [], "counts": []}
    first, last = max(0, filled[0] - 1), min(len(counts) - 1, filled[-1] + 1)
    return {"edges": [*edges[first : last + 2]], "counts": [*counts[first : last + 1]]}


def _series(sae: Trained, key: str) -> JsonObject:
    """The logged values of one quantity, thinned evenly to at most MAX_CURVE_POINTS with the last one kept."""
    points = [(line.step, value) for line in sae.curves if (value := line.value(key)) is not None]
    stride = max(1, -(-len(points) // MAX_CURVE_POINTS))
    kept = points[(len(points) - 1) % stride :: stride]
    return {"step": [step for step, _ in kept], "value": [value for _, value in kept]}
