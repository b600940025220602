"""The section on differences: tables, marks, figure; records of other scores or weights are not shown."""

import csv
import json
from pathlib import Path

import pytest

from strata_sae.pipeline.evaluation.comparing.comparisons import compare_saes
from strata_sae.pipeline.report import sections_of_run
from strata_sae.pipeline.report.comparisons_section import comparisons_section
from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.report.run_data import read_run
from strata_sae.pipeline.report.sections import Section
from strata_sae.pipeline.runs.comparison_records import DecoderStability, SeedPair, Stability
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.judging_records import SeedSpread
from strata_sae.pipeline.runs.record_files import write_record
from support.compared_run import SITE, Documents, compared_config, write_scored
from support.page_parser import Page

RUN = Path("runs/run")
WEIGHTS: dict[str, str] = {}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(n_documents: int = 13) -> None:
    """Two recipes of three seeds at L0 32, of which the first is better; one of one seed; one at another L0."""
    documents = Documents(n_documents)
    for seed in range(3):
        write_scored(RUN, f"good{seed}", documents.sums(0.20 + 0.0002 * seed, 32.0), k=1, seed=seed)
        write_scored(RUN, f"poor{seed}", documents.sums(0.22 + 0.0003 * seed, 32.1), k=2, seed=seed)
    write_scored(RUN, "alone", documents.sums(0.21, 32.2), k=3)
    write_scored(RUN, "dense", documents.sums(0.10, 64.0), k=4)
    compare_saes(compared_config(target_l0=32))


def section() -> Section:
    found = comparisons_section(read_run(RUN))
    assert found is not None
    return found


def cells(found: Section, name: str) -> dict[str, dict[str, str | float | None]]:
    (table,) = [table for table in found.tables if table.name == name]
    heads = [f"{label} {number}" if label == "minus" else label for number, (label, _) in enumerate(table.heads)]
    return {f"{row[0]} {row[1]}": dict(zip(heads, row, strict=True)) for row in table.rows}


def test_the_tables_say_who_is_better_and_with_how_many_seeds() -> None:
    write()
    found = section()
    rows = cells(found, "matched_as_trained")
    assert rows[f"good0 {SITE}"]["Says"] == "better than alone, poor0; one seed"
    assert rows[f"poor0 {SITE}"]["Says"] == "worse than alone, good0; one seed"
    assert rows[f"dense {SITE}"]["Says"] == "not ranked"
    assert [rows[f"{name} {SITE}"]["Matched"] for name in ("good0", "dense")] == ["yes", "no"]
    assert rows[f"good0 {SITE}"]["R² s.d."] == pytest.approx(0.0002, rel=0.2)
    pairs = cells(found, "differences_as_trained")
    assert len(pairs) == 3
    assert pairs["good0 poor0"]["Verdict"] == "good0 better"  # three seeds: no mark
    assert pairs["alone good0"]["Verdict"] == "good0 better, one seed"
    assert {table.name for table in found.tables} >= {"matched_all_but_special", "differences_all_but_special"}
    assert any("3 of 6 pairs have L0 more than 2 % apart" in note for note in found.notes)


def test_the_figure_has_a_point_with_bars_for_each_recipe_and_its_seeds() -> None:
    write()
    (figure,) = section().figures
    bars = [trace for trace in figure.traces if "error_y" in trace]
    assert [trace["variant"] for trace in bars] == ["alone", "dense", "good0", "poor0"]
    for trace in bars:
        assert isinstance(trace["error_y"], dict)
        assert trace["error_y"]["array"][0] > 0
    assert sum(trace.get("text") == ["seed 0", "seed 1", "seed 2"] for trace in figure.traces) == 2


def test_below_eight_documents_the_page_says_why_nothing_is_ranked() -> None:
    write(5)
    found = section()
    assert sum("5 held-out documents: below 8" in note for note in found.notes) == 2
    assert cells(found, "differences_as_trained")["good0 poor0"]["Verdict"] == "no interval"


def test_a_column_that_is_known_of_no_row_is_left_out() -> None:
    documents = Documents(5)
    write_scored(RUN, "a", documents.sums(0.2, 32.0), k=1)
    write_scored(RUN, "b", documents.sums(0.3, 32.0), k=2)
    compare_saes(compared_config())
    for table in section().tables:
        assert not {"R² from", "R² s.d.", "p", "p, Holm"} & {label for label, _ in table.heads}
        assert all(len(row) == len(table.heads) for row in table.rows)
        assert None not in [cell for row in table.rows for cell in row]


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.98])
def test_a_digit_changed_in_the_record_is_named_and_nothing_of_it_shown(share: float) -> None:
    write()
    path = RunFolder(RUN).comparisons
    data = bytearray(path.read_bytes())
    digits = [place for place, byte in enumerate(data) if chr(byte).isdigit() and chr(data[place + 1]) == "."]
    place = min(digits, key=lambda digit: abs(digit - share * len(data)))
    data[place] = ord("0") + (data[place] - ord("0") + 1) % 10
    path.write_bytes(data)
    run = read_run(RUN)
    assert comparisons_section(run) is None
    assert any("comparisons.json" in line for line in run.missing)


def test_differences_of_other_scores_are_not_shown() -> None:
    write()
    write_scored(RUN, "alone", Documents(13).sums(0.5, 32.2), k=3)
    run = read_run(RUN)
    assert comparisons_section(run) is None
    assert any("compared by other scores than are there; run evaluate" in line for line in run.missing)


def stable(weights: list[str]) -> Stability:
    recipe = DecoderStability(
        site=SITE,
        recipe="good0",
        variants=["good0", "good1"],
        seeds=[0, 1],
        weights_sha256=weights,
        d_sae=8,
        d_out=16,
        n_matched=8,
        pairs=[SeedPair(first="good0", second="good1", mcc=0.61)],
        mcc=SeedSpread(mean=0.61, standard_deviation=None, n_seeds=1, n_undefined=0),
        null_mcc=SeedSpread(mean=0.3, standard_deviation=0.02, n_seeds=20, n_undefined=0),
        null_seed=0,
    )
    return Stability(fingerprint="", recipes=[recipe], refused=["x@y: torn"])


def test_stability_stands_beside_its_null_and_only_for_these_weights() -> None:
    write()
    folder = RunFolder(RUN)
    run = read_run(RUN)
    hashes = {sae.variant: sae.training.sha256.weights for sae in run.trained if sae.training}
    write_record(folder.stability, stable([hashes["good0"], hashes["good1"]]))
    found = section()
    row = cells(found, "stability")[f"good0 {SITE}"]
    assert (row["MCC"], row["Lowest pair"], row["Random"], row["Draws"]) == (0.61, 0.61, 0.3, 20)
    assert "Seeds not compared: x@y: torn" in found.notes
    write_record(folder.stability, stable([hashes["good0"], "0" * 64]))
    run = read_run(RUN)
    found = comparisons_section(run)
    assert found is not None
    assert "stability" not in {table.name for table in found.tables}
    assert any("good1@" in line and "other weights" in line for line in run.missing)


def test_the_section_reaches_the_page_and_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    write()
    monkeypatch.setattr(sections_of_run, "SECTIONS", [comparisons_section])
    page = Page(write_report(RUN))
    assert "What differs, and what is noise" in page.text
    (data,) = [json.loads(text) for _, attrs, text in page.raw if attrs.get("type") == "application/json"]
    assert "frontier_1" in data["sections"]
    with open(RUN / "tables" / "matched_as_trained.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) == 5


def test_a_run_without_comparisons_has_no_section() -> None:
    write_scored(RUN, "a", Documents(13).sums(0.2, 32.0))
    assert comparisons_section(read_run(RUN)) is None
