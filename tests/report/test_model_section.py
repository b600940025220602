"""Cross-entropy and KL on the page: both forms by name, with intervals, and nothing of a foreign record."""

from pathlib import Path

import pytest

from strata_sae.pipeline.report import sections_of_run
from strata_sae.pipeline.report.model_section import model_section
from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.report.run_data import read_run
from strata_sae.pipeline.runs.folders import RunFolder
from support.made_up_losses import made_up_losses
from support.made_up_run import SITES
from support.page_parser import Page
from support.sealing import edit

SITE = next(iter(SITES))


@pytest.fixture
def measured(run_folder: Path) -> Path:
    for place, variant in enumerate(("topk", "batch-topk")):
        made_up_losses(run_folder, f"{variant}@{SITE}", worse=0.1 * place)
    return run_folder


def test_both_forms_have_a_table_with_intervals(measured: Path) -> None:
    section = model_section(read_run(measured))
    assert section is not None
    population, saebench, bounds = section.tables
    assert [
        table.caption.startswith(f"{SITE}, form {form}")
        for table, form in ((population, "population"), (saebench, "saebench"))
    ] == [True, True]
    for table in section.tables:
        assert {len(row) for row in table.rows} == {len(table.heads)}
    rows = {row[0]: row for row in population.rows}
    assert rows.keys() == {"topk", "batch-topk"}
    assert float(rows["topk"][1]) > float(rows["batch-topk"][1])
    assert rows["topk"][1] == pytest.approx(1 - 0.2 / 8)
    assert " to " in str(rows["topk"][2])
    assert rows["batch-topk"][6] == pytest.approx(0.3)
    assert [row[:2] for row in bounds.rows][:2] == [["clean", ""], ["zeros", "population"]]
    assert "12 of 13 held-out documents" in section.lede
    (figure,) = section.figures
    assert [trace["variant"] for trace in figure.traces] == ["topk", "batch-topk"]
    assert figure.traces[0]["error_y"]["array"][0] > 0


def test_few_documents_have_no_interval_and_a_note(run_folder: Path) -> None:
    made_up_losses(run_folder, f"topk@{SITE}", n_documents=3)
    section = model_section(read_run(run_folder))
    assert section is not None
    assert section.tables[0].rows[0][2] is None
    assert any("no intervals, since 3 documents are too few" in note for note in section.notes)


def test_a_run_that_was_not_measured_has_no_section(run_folder: Path) -> None:
    assert model_section(read_run(run_folder)) is None


def test_a_record_of_other_weights_is_not_shown(measured: Path) -> None:
    edit(RunFolder(measured).variant(f"topk@{SITE}").model_metrics, {"weights_sha256": "ab" * 32})
    run = read_run(measured)
    section = model_section(run)
    assert section is not None
    assert [row[0] for row in section.tables[0].rows] == ["batch-topk"]
    assert any("model_metrics.json: weights_sha256: is abab" in line for line in run.missing)


def test_the_page_shows_it(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections_of_run, "SECTIONS", [model_section])
    page = Page(write_report(measured))
    assert ("a", {"href": "#with-the-model"}) in page.elements
    assert "as SAEBench does" in page.text
    assert (measured / "tables/with_model_population_0.csv").exists()
