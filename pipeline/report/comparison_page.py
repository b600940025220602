"""`strata report RUN RUN`: one self-contained page and one CSV table of several runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from strata_sae.pipeline.pages import template
from strata_sae.pipeline.pages.frame import Frame
from strata_sae.pipeline.pages.tables import csv_text
from strata_sae.pipeline.pages.text import UNKNOWN, count
from strata_sae.pipeline.report.comparison import (
    Comparison,
    Entry,
    Population,
    differing_settings,
    metrics_of,
    read_comparison,
    unequal_definitions,
)
from strata_sae.pipeline.report.page import N_COLOURS, REPORT
from strata_sae.pipeline.report.results import Cell, Column, cells_of, columns_of, definitions, pretty, status_of
from strata_sae.pipeline.runs.evaluation_records import Measured, way_of
from strata_sae.pipeline.runs.migration import JsonObject
from strata_sae.stores.files.filesystem import write_bytes

NOT_SCORED = [None] * len(Population._fields)
LONGEST_NAME = 100
"""Characters of the names of the runs in that of the page; a file's name may have 255 bytes."""
IN_WORDS = {
    "store_id": "other stores",
    "split": "other splits",
    "filters": "other filters",
    "n_rows": "other numbers of rows",
    "n_documents": "other numbers of documents",
}
"""What is not the same in two populations, in words."""


class ScoreRow(NamedTuple):
    """An SAE of the table of a site."""

    variant: str
    run: int
    status: str
    population: str
    on_frontier: bool
    cells: list[Cell]


class ScoreTable(NamedTuple):
    """The scores of all runs at one site."""

    columns: list[Column]
    rows: list[ScoreRow]
    note: str
    """Why not all rows can be compared; empty if they can."""


def write_comparison(folders: Sequence[Path]) -> Path:
    """Write `<run>+<run>.html` and `.csv` beside the first run; returns the page's path.

    Raises: ConfigError for a run that is named twice; CheckpointError for what is no run.
    """
    comparison = read_comparison(folders)
    name = "+".join(run.name for run in comparison.runs)
    if len(name) > LONGEST_NAME:
        name = f"{comparison.runs[0].name[:LONGEST_NAME]}+{len(folders) - 1} others"
    page = folders[0].resolve().parent / f"{name}.html"
    write_bytes(page.with_name(f"{name}.csv"), comparison_csv(comparison).encode("utf-8"))
    write_bytes(page, render(comparison).encode("utf-8"))
    return page


def render(comparison: Comparison) -> str:
    """The whole page as one string."""
    return template("comparison.html.jinja", REPORT).render(
        frame=Frame.around(figures(comparison), REPORT, ["comparison.js"]),
        title=", ".join(comparison.names),
        statement=statement(comparison),
        names=comparison.names,
        colour=[place % N_COLOURS for place in range(len(comparison.runs))],
        missing=[(name, run.missing) for name, run in zip(comparison.names, comparison.runs, strict=True)],
        populations=population_rows(comparison),
        settings=differing_settings(comparison),
        tables={site: score_table(comparison, site) for site in comparison.sites},
        unequal=unequal_definitions(comparison.runs),
        definitions={name: entry for name, entry in _definitions(comparison).items() if way_of(name) is None},
        pretty=pretty,
    )


def statement(comparison: Comparison) -> str:
    """What was compared, in sentences."""
    entries = [entry for of_site in comparison.sites.values() for entry in of_site]
    sites = f"{len(comparison.sites)} site{'' if len(comparison.sites) == 1 else 's'}"
    said = f"{len(comparison.runs)} runs with {len(entries)} SAEs at {sites}, side by side."
    clashing = [site for site in comparison.sites if comparison.clashes(site)]
    if clashing:
        return f"{said} Not all scores can be compared: at {', '.join(clashing)} they were measured on unequal rows."
    if not comparison.populations:
        return f"{said} Nothing has been scored yet."
    return f"{said} At each site all scores were measured on equal rows."


def population_rows(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """(mark, cells) of each population: store, split, rows, documents, filters."""
    return [
        (
            mark_of(place),
            [
                population.store_id[:12],
                population.split,
                count(population.n_rows),
                count(population.n_documents),
                population.filters,
            ],
        )
        for place, population in enumerate(comparison.populations)
    ]


def mark_of(place: int | None) -> str:
    """How a population is called in the tables: A, B, ..., Z, A1, ...; a dash for none."""
    if place is None:
        return UNKNOWN
    return chr(ord("A") + place % 26) + (str(place // 26) if place >= 26 else "")


def score_table(comparison: Comparison, site: str) -> ScoreTable:
    """The scores at a site: of each variant the runs' SAEs below each other."""
    entries = comparison.sites[site]
    saes = [entry.sae for entry in entries]
    columns = columns_of(saes, metrics_of(comparison.runs), _definitions(comparison))
    rows = [
        ScoreRow(
            entry.sae.variant,
            entry.run,
            status_of(entry.sae),
            mark_of(entry.population),
            entry.on_frontier,
            cells_of(entry.sae, columns),
        )
        for entry in entries
    ]
    found = [name for name in comparison.clashes(site) if name in IN_WORDS]
    told = ", ".join(IN_WORDS[name] for name in found)
    note = f"Not comparable: rows with different marks were scored on {told}." if found else ""
    return ScoreTable(columns, rows, note)


def figures(comparison: Comparison) -> JsonObject:
    """The numbers behind the figures, by site."""
    sites: JsonObject = {
        site: [_point(entry) for entry in entries if None not in (entry.sae.value("l0"), entry.sae.value("r2_pooled"))]
        for site, entries in comparison.sites.items()
    }
    return {"runs": [*comparison.names], "sites": sites}


def _point(entry: Entry) -> JsonObject:
    return {
        "run": entry.run,
        "variant": entry.sae.variant,
        "l0": entry.sae.value("l0"),
        "r2": entry.sae.value("r2_pooled"),
        "population": mark_of(entry.population),
        "frontier": entry.on_frontier,
    }


def comparison_csv(comparison: Comparison) -> str:
    """One line per SAE of any run; every metric with its unit in the header, and the rows that it was measured on."""
    units, names = _definitions(comparison), metrics_of(comparison.runs)
    fixed = ["run", "variant", "site", "architecture", "d_sae", "status", "steps", "population", "on frontier"]
    rows: list[list[str | float | None]] = [
        [*fixed, *Population._fields, *(f"{name} [{units[name].unit}]" for name in names)]
    ]
    for site, entries in comparison.sites.items():
        for entry in entries:
            sae = entry.sae
            cells: list[str | float | None] = [comparison.names[entry.run], sae.variant, site]
            cells += [sae.config.sae.architecture, sae.config.sae.d_sae] if sae.config else [None] * 2
            cells += sae.ending
            scored = entry.population is not None
            cells += [mark_of(entry.population), "yes" if entry.on_frontier else "no"] if scored else [None] * 2
            cells += comparison.populations[entry.population] if entry.population is not None else NOT_SCORED
            rows.append([*cells, *(sae.value(name) for name in names)])
    return csv_text(rows)


def _definitions(comparison: Comparison) -> dict[str, Measured]:
    """Of every metric the first run's unit and definition."""
    found: dict[str, Measured] = {}
    for run in comparison.runs:
        found = definitions(run) | found
    return found
