"""Which sections a page has beside those of every run, in their order, and what their figures draw."""

import math
from collections.abc import Callable

from pydantic import JsonValue

from strata_sae.pipeline.report.absorption_section import absorption_section
from strata_sae.pipeline.report.comparisons_section import comparisons_section
from strata_sae.pipeline.report.interpretation_section import interpretation_section
from strata_sae.pipeline.report.matching_section import matching_section
from strata_sae.pipeline.report.model_section import model_section
from strata_sae.pipeline.report.populations_section import populations_section
from strata_sae.pipeline.report.probing_section import probing_section
from strata_sae.pipeline.report.redundancy_section import redundancy_section
from strata_sae.pipeline.report.run_data import Run
from strata_sae.pipeline.report.sections import Section
from strata_sae.pipeline.report.seed_001_section import seed_001_section
from strata_sae.pipeline.report.truth_section import truth_section
from strata_sae.pipeline.runs.migration import JsonObject

SECTIONS: list[Callable[[Run], Section | None]] = [
    comparisons_section,
    populations_section,
    model_section,
    probing_section,
    absorption_section,
    truth_section,
    interpretation_section,
    matching_section,
    redundancy_section,
    seed_001_section,
]
"""Each reads its records by `run.read`, and returns None where the run has none of them."""


def sections_of(run: Run) -> list[Section]:
    """The sections that this run has something for."""
    return [section for make in SECTIONS if (section := make(run)) is not None]


def section_figures(sections: list[Section]) -> JsonObject:
    """Name of each figure -> its traces and layout."""
    return {
        figure.name: _finite({"traces": [*figure.traces], "layout": figure.layout})
        for section in sections
        for figure in section.figures
    }


def _finite(value: JsonValue) -> JsonValue:
    """The same, with null for what JSON cannot spell; plotly.js leaves a gap there."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
