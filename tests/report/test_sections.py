"""Sections that records add to the page: rendered, written as CSV, and text of strangers in them only text."""

import csv
import json
from pathlib import Path

import pytest

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.report import sections_of_run
from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.report.run_data import read_run
from strata_sae.pipeline.report.section_tables import shown_table, spelt, table_csv
from strata_sae.pipeline.runs.record_files import read_record
from strata_sae.pipeline.runs.records import SAERecord
from support.made_up_run import HOSTILE
from support.made_up_section import LONG, made_up
from support.page_parser import Page
from support.sealing import edit


@pytest.fixture
def one_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections_of_run, "SECTIONS", [lambda run: None, made_up])


@pytest.mark.usefixtures("one_section")
def test_a_section_is_rendered_with_its_table_its_figure_and_a_place_in_the_navigation(run_folder: Path) -> None:
    path = write_report(run_folder)
    page, source = Page(path), path.read_text(encoding="utf-8")
    assert ("a", {"href": "#made-up"}) in page.elements
    assert [attrs for tag, attrs in page.elements if tag == "section" and attrs["id"] == "made-up"]
    for text in ("Made up topk", "What topk says.", "Recovered by topk", "KL of topk", "Not measured: topk.", LONG):
        assert text in page.text
    assert '<span class="unit">nats</span>' in source
    assert '<td data-key="0.7950721447">0.795</td>' in source
    assert '<td data-key="1.25e-07">1.25·10⁻⁷</td>' in source
    (data,) = [json.loads(text) for _, attrs, text in page.raw if attrs.get("type") == "application/json"]
    assert data["sections"]["spread"]["traces"][0]["y"] == [3.0, None]  # JSON has no NaN
    assert "tables/recovered.csv" in page.text


def test_control_a_page_without_sections_has_none_of_it(run_folder: Path) -> None:
    page = Page(write_report(run_folder))
    assert "made-up" not in page.text
    assert not list((run_folder / "tables").glob("recovered.csv"))


@pytest.mark.usefixtures("one_section")
def test_the_csv_has_the_cells_of_the_page_with_all_digits(run_folder: Path) -> None:
    write_report(run_folder)
    (table,) = made_up(read_run(run_folder)).tables
    with open(run_folder / "tables" / "recovered.csv", encoding="utf-8", newline="") as file:
        head, *lines = list(csv.reader(file))
    assert head[:3] == ["variant", "KL [nats]", f"gain [{LONG}]"]
    shown = shown_table(table).rows
    assert [[cell.key for cell in row] for row in shown] == lines
    assert lines[0][1] == repr(table.rows[0][1])
    assert lines[1][2] == ""  # not a number


@pytest.mark.usefixtures("one_section")
def test_a_table_that_the_page_has_no_more_leaves_no_file(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(run_folder)
    assert (run_folder / "tables" / "recovered.csv").is_file()
    monkeypatch.setattr(sections_of_run, "SECTIONS", [])
    write_report(run_folder)
    assert not (run_folder / "tables" / "recovered.csv").exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_in_a_section_are_only_text(run_folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def shape() -> list[tuple[str, list[str]]]:
        return [(tag, sorted(attrs)) for tag, attrs in Page(write_report(run_folder)).elements]

    monkeypatch.setattr(sections_of_run, "SECTIONS", [lambda run: made_up(run, "plain")])
    plain = shape()
    monkeypatch.setattr(sections_of_run, "SECTIONS", [lambda run: made_up(run, name)])
    assert shape() == plain
    cells = (run_folder / "tables" / "recovered.csv").read_text(encoding="utf-8")
    assert not {"\x00", "\x1b", "\u202e"} & set(cells)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x"])
def test_no_cell_of_a_table_becomes_a_formula(run_folder: Path, name: str) -> None:
    (table,) = made_up(read_run(run_folder), name).tables
    assert list(csv.reader(table_csv(table).splitlines()))[3][0] == f"'{name}"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "nats", "\N{EN DASH}"),
        (float("nan"), "nats", "\N{EN DASH}"),
        (-0.25, "nats", "\N{MINUS SIGN}0.250"),
        (2304, "", "2\N{NARROW NO-BREAK SPACE}304"),
        (3, "documents", "3"),
        (0.0000125, "nats", "1.25·10⁻⁵"),
        (-0.0004, "cosine", "0.000"),
        (0.87654321, "fraction of variance", "0.8765"),
        (0.0, "nats", "0.00"),
    ],
)
def test_numbers_are_spelt_as_their_unit_is_worth(value: float | None, unit: str, text: str) -> None:
    assert spelt(value, unit) == text


def test_what_a_section_reads_is_shown_whole_and_what_is_wrong_is_said(run_folder: Path) -> None:
    run = read_run(run_folder)
    sae = run.trained[0]
    path = sae.folder.config
    found = run.read(path, lambda: read_record(path, SAERecord))
    assert found is not None
    assert run.records == {path.relative_to(run_folder).as_posix(): found}
    assert run.missing == []
    assert run.read(run_folder / "none.json", lambda: read_record(path, SAERecord)) is None  # absent: nothing to say
    assert run.missing == []
    path.write_text("{ [", encoding="utf-8")
    assert run.read(path, lambda: read_record(path, SAERecord)) is None
    assert [line.partition(":")[0] for line in run.missing] == [f"{sae.variant}@{sae.site}/config.json"]


def test_every_section_of_the_list_is_none_of_a_run_without_its_records(run_folder: Path) -> None:
    """A section never fails on a run that was trained and scored before there was such a record."""
    for path in run_folder.glob("variants/*/metrics.json"):
        edit(path, {"n_documents": 3})
    run = read_run(run_folder)
    found = sections_of_run.sections_of(run)
    names = [part.name for section in found for part in (*section.tables, *section.figures)]
    assert len(names) == len(set(names))
    with pytest.raises(CheckpointError):  # control: what is read may fail, and `read` says so
        read_record(run_folder / "none.json", SAERecord)
