"""Stage 4: a run folder -> report.html, one self-contained page, and results.csv."""

import json
from collections.abc import Iterator
from pathlib import Path

from markupsafe import Markup
from pydantic import JsonValue

from strata_sae.pipeline.pages import template
from strata_sae.pipeline.pages.frame import Frame
from strata_sae.pipeline.pages.text import visible
from strata_sae.pipeline.report.dynamics import dynamics_definitions, dynamics_of, quantities, shown_panels, thinned
from strata_sae.pipeline.report.facts import (
    environment_facts,
    run_facts,
    statement,
    store_facts,
    uneven_sites,
    variant_facts,
)
from strata_sae.pipeline.report.first_screen import first_example, picture_site
from strata_sae.pipeline.report.populations_section import scored_rows
from strata_sae.pipeline.report.results import (
    MIXING_HEADS,
    curve_definitions,
    definitions,
    loader_totals,
    mixing_table,
    pretty,
    result_tables,
    results_csv,
)
from strata_sae.pipeline.report.run_data import Run, Trained, read_run
from strata_sae.pipeline.report.section_tables import shown_table, write_tables
from strata_sae.pipeline.report.sections import Section
from strata_sae.pipeline.report.sections_of_run import section_figures, sections_of
from strata_sae.pipeline.report.telling import without_paths
from strata_sae.pipeline.runs.evaluation_records import Histogram, way_of
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.interpretation_records import InterpretationRecord
from strata_sae.pipeline.runs.label_records import TokenLabelRecord
from strata_sae.pipeline.runs.migration import JsonObject
from strata_sae.pipeline.runs.records import Record
from strata_sae.stores.files.filesystem import write_bytes

REPORT = "strata_sae.pipeline.report"
N_COLOURS = 10
"""As many as style.css has; further variants begin with the first again."""
COSINES, PAIRS = "decoder_max_cosine_mean", "orthogonality/competing_pairs"
CURVES = ("batch_r2", "loss", "l0", "dead_latents", COSINES, PAIRS, "heldout/loss", "heldout/r2")
MAX_CURVE_POINTS = 400
"""Points of a curve: a figure is about that many pixels wide."""
ELSEWHERE = (
    "metrics.density_histogram",
    "metrics.all_but_special.density_histogram",
    "metrics.definitions",
    "curves.similarity",
    "comparisons.json.tables",
)
"""What the page shows as a figure, once for all SAEs, or in tables of its own."""
OF_TRAINING = (
    "config.seed",
    "config.training.batch_size",
    "config.training.n_steps",
    "training.n_steps",
    "training.rows",
)
"""What an imported SAE's records must hold, and what says nothing of it."""
Cells = list[tuple[str, str]]


def write_report(run_folder: Path, title: str | None = None) -> Path:
    """Write report.html (self-contained) and results.csv; returns the page's path.

    Raises: CheckpointError if nothing has been trained in the folder.
    """
    run, folder = read_run(run_folder), RunFolder(run_folder)
    sections = sections_of(run)
    write_tables(folder.tables, sections)
    write_bytes(folder.results, results_csv(run).encode("utf-8"))
    write_bytes(folder.report, render(run, title, sections).encode("utf-8"))
    return folder.report


def render(run: Run, title: str | None, sections: list[Section]) -> str:
    """The whole page as one string."""
    data = figures(run) | {"sections": section_figures(sections)}
    return template("report.html.jinja", REPORT).render(
        frame=Frame.around(data, REPORT, ["dynamics.js", "sections.js", "report.js"]),
        title=title or run.name,
        statement=statement(run),
        picture_site=picture_site(run),
        first_example=first_example(run),
        run_facts=run_facts(run),
        store_facts=store_facts(run),
        mixing_heads=MIXING_HEADS,
        mixing_table=mixing_table(run),
        uneven=uneven_sites(run),
        tables=result_tables(run),
        scored_rows=scored_rows(run),
        sections=[(section, [shown_table(table) for table in section.tables]) for section in sections],
        definitions=definitions(run),
        way_of=way_of,
        pretty=pretty,
        curve_definitions={**curve_definitions(run), **dynamics_definitions(run)},
        panels_of_one=data["panels"],
        quantities=quantities(run),
        environment_facts=environment_facts(run),
        variant_facts=variant_facts(run),
        record_tables=record_tables(run),
        run=run,
        legend=[{"variant": name, "colour": index % N_COLOURS} for index, name in enumerate(run.variants)],
        colour={name: index % N_COLOURS for index, name in enumerate(run.variants)},
        config_text=Markup.escape(visible(run.config_text, keep_lines=True)),
    )


def figures(run: Run) -> JsonObject:
    """The numbers behind every figure, by site and variant, and the panels that an SAE may have."""
    found = {site: {sae.variant: (_figure_data(sae), dynamics_of(sae)) for sae in run.at(site)} for site in run.sites}
    used = {key for saes in found.values() for _, dynamics in saes.values() for key in dynamics.panels}
    sites: JsonObject = {
        site: {name: data | dynamics._asdict() for name, (data, dynamics) in saes.items()}
        for site, saes in found.items()
    }
    return {"variants": [*run.variants], "sites": sites, "panels": shown_panels(used)}


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
    """The logged values of one quantity."""
    points = [(line.step, value) for line in sae.curves if (value := line.value(key)) is not None]
    kept = thinned(points, MAX_CURVE_POINTS)
    return {"step": [step for step, _ in kept], "value": [value for _, value in kept]}


def record_tables(run: Run) -> list[tuple[str, Cells]]:
    """For each record a title and its values, keys in their order."""
    tables = [("environment.json", _cells("environment", run.environment)), ("store.json", _cells("store", run.store))]
    for site in run.sites:
        tables += [(f"loader of {site}", _cells("loader", total)) for total in loader_totals(run.loader.get(site, []))]
    tables += [(f"{sae.variant}@{sae.site}", _of_sae(sae)) for site in run.sites for sae in run.at(site)]
    tables += [(name, _cells(name, record)) for name, record in run.records.items()]
    return [(title, cells) for title, cells in tables if cells]


def _of_sae(sae: Trained) -> Cells:
    metrics = _data(sae.metrics)
    if sae.metrics is not None:
        metrics["metrics"] = {name: measured.value for name, measured in sae.metrics.metrics.items()}
        if (special := sae.metrics.all_but_special) is not None:
            values: JsonObject = {name: measured.value for name, measured in special.metrics.items()}
            metrics["all_but_special"] = special.model_dump(mode="json") | {"metrics": values}
    examples = {key: value for key, value in _data(sae.examples).items() if key != "latents"}
    # Explanations stand in the section about them, and in interpretations.csv.
    words = sae.interpretation and without_paths(sae.interpretation.model_copy(update={"latents": []}))
    others = sae.published
    curves = sae.curves[-1] if sae.curves else None
    cells = [
        *_cells("config", sae.config),
        *_cells("training", sae.training),
        *_cells("metrics", metrics),
        *_cells("curves", curves),
        *_cells("examples", examples),
        *_cells("token_labels", _with_values(sae.labels)),
        *_cells("interpretation", _with_values(words)),
        *_cells("published", others and others.model_copy(update={"explanations": []})),
    ]
    return [cell for cell in cells if not (sae.imported and cell[0].startswith(OF_TRAINING))]


def _with_values(record: TokenLabelRecord | InterpretationRecord | None) -> JsonObject:
    """A record in which each metric is its value; units and definitions stand elsewhere on the page."""
    if record is None:
        return {}
    return _data(record) | {"metrics": {name: measured.value for name, measured in record.metrics.items()}}


def _data(record: Record | None) -> JsonObject:
    return {} if record is None else record.model_dump(mode="json")


def _cells(prefix: str, record: Record | JsonObject | None) -> Cells:
    data = record if isinstance(record, dict) else _data(record)
    return [(key, text) for key, text in _leaves(prefix, data) if not key.startswith(ELSEWHERE)]


def _leaves(key: str, value: JsonValue) -> Iterator[tuple[str, str]]:
    """Dotted keys and their values: text as it is, everything else as JSON; what is null or empty has no value."""
    if isinstance(value, dict):
        for name, item in sorted(value.items()):
            yield from _leaves(f"{key}.{name}", item)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _leaves(f"{key}.{place}", item)
    elif value is not None:
        yield key, value if isinstance(value, str) else json.dumps(value)
