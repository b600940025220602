"""Sections made of scores and settings: the other population, redundancy, schedules, and the rows of seed 001."""

import csv
from pathlib import Path
from typing import Any

import pytest

from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.report.populations_section import populations_section
from strata_sae.pipeline.report.redundancy_section import redundancy_section
from strata_sae.pipeline.report.run_data import read_run
from strata_sae.pipeline.report.seed_001_section import ROWS, seed_001_section
from support.made_up_run import SITES, VARIANTS
from support.page_parser import Page
from support.sealing import edit

SCORED = [name for name in VARIANTS if name != "topk-hot"]


def score_both(run: Path) -> None:
    """As if every R2 were a tenth less over all rows but special tokens."""

    def both(record: dict[str, Any]) -> None:
        metrics = {name: dict(entry) for name, entry in record["metrics"].items()}
        metrics["r2_pooled"]["value"] -= 0.1
        kept = ("density_histogram", "top_percent_square_share")
        scores = {name: record[name] for name in kept} | {"by_position": []}
        record["all_but_special"] = scores | {"metrics": metrics, "n_rows": 104_000, "n_documents": 441}

    for path in run.glob("variants/*/metrics.json"):
        edit(path, both)


def test_the_other_population_has_a_table_of_its_own_with_its_rows(run_folder: Path) -> None:
    score_both(run_folder)
    page = Page(write_report(run_folder))
    assert "as_trained: 103\N{NARROW NO-BREAK SPACE}212 rows of 441 documents" in page.text
    with open(run_folder / "tables" / "results_all_but_special.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["Variant"] for line in lines] == SCORED * len(SITES)
    assert float(lines[1]["R² [fraction of variance]"]) == pytest.approx(VARIANTS["topk"]["r2"] - 0.1)
    assert lines[1]["rows [count]"] == "104000"


def test_control_without_the_other_population_there_is_none(run_folder: Path) -> None:
    assert populations_section(read_run(run_folder)) is None


def test_redundancy_is_shown_against_fvu_and_what_the_settings_change_through_training(run_folder: Path) -> None:
    section = redundancy_section(read_run(run_folder))
    assert section is not None
    first, _, schedules = section.figures
    assert [trace["variant"] for trace in first.traces] == SCORED
    assert first.traces[1]["x"] == [VARIANTS["topk"]["cosine"]]
    assert first.traces[1]["y"] == [pytest.approx(1 - VARIANTS["topk"]["r2"])]
    (trace,) = schedules.traces  # the weight of the orthogonality term falls as (1 - share)^2
    assert trace["variant"] == "topk-orthogonal"
    values = trace["y"]
    assert isinstance(values, list)
    assert [values[0], values[20], values[-1]] == [1.0, pytest.approx(0.25), 0.0]


def test_a_run_that_was_not_scored_shows_its_schedules_alone(run_folder: Path) -> None:
    for path in run_folder.glob("variants/*/metrics.json"):
        path.unlink()
    section = redundancy_section(read_run(run_folder))
    assert section is not None
    assert [figure.name for figure in section.figures] == ["schedules"]
    assert section.tables == []


def test_the_rows_of_seed_001_are_marked_unmatched_and_only_beside_its_term(run_folder: Path) -> None:
    text = Page(write_report(run_folder)).text
    assert "Seed 001 for reference" in text
    assert text.count("unmatched") >= len(ROWS)
    assert "unlearning is not reproduced" in text
    run = read_run(run_folder)
    run.trained[:] = [sae for sae in run.trained if "orthogonal" not in sae.variant]
    assert seed_001_section(run) is None
