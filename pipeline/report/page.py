"""The page: what the template is given, the data of the figures, and the content security policy."""

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from strata_sae.pipeline.report.facts import environment_facts, run_facts, store_facts, uneven_sites, variant_facts
from strata_sae.pipeline.report.leaves import record_tables
from strata_sae.pipeline.report.mixing import HEADS, mixing_table
from strata_sae.pipeline.report.results import curve_definitions, definitions, pretty, result_tables
from strata_sae.pipeline.report.run_data import Run, Trained
from strata_sae.pipeline.report.statement import statement
from strata_sae.pipeline.report.text import finalize, script_json, visible

N_COLOURS = 10
COSINES, PAIRS = "decoder_max_cosine_mean", "orthogonality/competing_pairs"
CURVES = ("batch_r2", "loss", "l0", "dead_latents", COSINES, PAIRS)
MAX_CURVE_POINTS = 400


def render(run: Run, title: str | None) -> str:
    """The whole page as one string."""
    style, plotly, script = _file("report.css"), get_plotlyjs(), _file("report.js")
    policy = {
        "default-src": "'none'",
        "script-src": f"{_hash(plotly)} {_hash(script)}",
        "style-src": _hash(style),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return _template().render(
        policy="; ".join(f"{directive} {sources}" for directive, sources in policy.items()),
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
        logged={key for sae in run.trained for line in sae.curves for key in line},
        taken_ids=re.findall(r'getElementById\("([0-9a-f]{64})"\)', plotly),
        heat=heat,
        config_text=Markup.escape(visible(run.config_text, keep_lines=True)),
    )


@cache
def _template() -> Template:
    """The page's template, compiled once."""
    return Environment(
        loader=FunctionLoader(_file), autoescape=True, finalize=finalize, undefined=StrictUndefined, trim_blocks=True
    ).get_template("report.html.jinja")


def heat(value: float | None, top: float) -> int:
    """How strongly a token is coloured: 0 (not active) to 10 (as active as the example itself)."""
    if not value or value <= 0.0 or top <= 0.0:
        return 0
    return max(1, round(min(10.0, 10 * value / top)))


def figures(run: Run) -> dict[str, Any]:
    """The numbers behind every figure, by site and variant."""
    return {
        "variants": run.variants,
        "sites": {site: {sae.variant: _figure_data(sae) for sae in run.at(site)} for site in run.sites},
    }


def _figure_data(sae: Trained) -> dict[str, Any]:
    return {
        "diverged_at_step": sae.training.get("diverged_at_step") if sae.diverged else None,
        "l0": sae.value("l0"),
        "r2": sae.value("r2_pooled"),
        "dead": sae.value("dead_latents"),
        "alive": sae.value("alive_latents"),
        "curves": {key: _series(sae, key) for key in CURVES},
        "density": _density(sae),
    }


def _density(sae: Trained) -> dict[str, list[float]]:
    """The histogram from its first to its last filled bin, with an empty one on either side where there is one."""
    histogram = sae.metrics.get("density_histogram", {})
    counts, edges = histogram.get("counts", []), histogram.get("log10_edges", [])
    filled = [place for place, n in enumerate(counts) if n]
    if not filled:
        return {"edges": [], "counts": []}
    first, last = max(0, filled[0] - 1), min(len(counts) - 1, filled[-1] + 1)
    return {"edges": edges[first : last + 2], "counts": counts[first : last + 1]}


def _series(sae: Trained, key: str) -> dict[str, list[float]]:
    """The logged values of one quantity, thinned evenly to at most MAX_CURVE_POINTS with the last one kept."""
    points = [(line["step"], line[key]) for line in sae.curves if line.get(key) is not None and "step" in line]
    stride = max(1, -(-len(points) // MAX_CURVE_POINTS))
    kept = points[(len(points) - 1) % stride :: stride]
    return {"step": [step for step, _ in kept], "value": [value for _, value in kept]}


def _file(name: str) -> str:
    return resources.files("strata_sae.pipeline.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
