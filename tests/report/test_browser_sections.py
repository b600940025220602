"""Sections, their tables, and figures that are saved, in a real browser."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from playwright.sync_api import expect

from strata_sae.pipeline.report import sections_of_run
from strata_sae.pipeline.report.page import write_report
from support.made_up_run import HOSTILE
from support.made_up_section import made_up

pytestmark = pytest.mark.browser
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def page_with_a_section(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sections_of_run, "SECTIONS", [made_up])
    return write_report(run_folder)


def test_a_section_draws_its_figure_in_the_colours_of_variants(watch: Any, page_with_a_section: Path) -> None:
    watched = watch(page_with_a_section)
    watched.scroll_through()
    page = watched.page
    box = page.locator('[data-name="spread"]')
    expect(box.locator(".scatterlayer .trace")).to_have_count(3)
    colour = "getComputedStyle(document.documentElement).getPropertyValue('--c1').trim()"
    drawn = box.evaluate("(box) => box.data.map((trace) => trace.marker.color)")
    assert drawn[0] == page.evaluate(colour)
    assert len(set(drawn[3])) == 2
    keys = page.locator('[data-name="spread"] + .keys')
    assert keys.inner_text().split("\n") == ["topk", "null"]
    page.locator(".chip", has_text="topk").first.click()  # the variant of the first trace
    expect(box.locator(".scatterlayer .trace")).to_have_count(2)
    assert watched.errors == []


def test_a_table_of_a_section_sorts_numbers_as_numbers_and_words_as_words(
    watch: Any, page_with_a_section: Path
) -> None:
    watched = watch(page_with_a_section)
    table = watched.page.locator("#made-up table")

    def first_cells() -> list[str]:
        return list(table.locator("tbody th").all_inner_texts())

    table.get_by_role("button", name="latents").click()
    assert table.locator("tbody tr td:nth-child(4)").all_inner_texts()[:2] == ["2\u202f304", "12"]
    assert table.locator("tbody tr").last.locator("td:nth-child(4)").inner_text() == "\N{EN DASH}"
    table.get_by_role("button", name="said").click()
    said = table.locator("tbody tr td:nth-child(5)").all_inner_texts()
    assert said == sorted(said, reverse=True)
    assert len(first_cells()) == 3


@pytest.mark.parametrize("name", ["[data-name=spread]", "[data-figure=frontier]", "[data-panel=matrix]"])
def test_every_figure_can_be_saved_as_svg_without_the_network(
    watch: Any, page_with_a_section: Path, tmp_path: Path, name: str
) -> None:
    watched = watch(page_with_a_section)
    watched.scroll_through()
    page = watched.page
    assert page.locator(".save").count() == page.locator(".plot").count()
    figure = page.locator("figure", has=page.locator(name)).first
    with page.expect_download() as waiting:
        figure.locator(".save").click()
    waiting.value.save_as(tmp_path / "figure.svg")
    root = ElementTree.parse(tmp_path / "figure.svg").getroot()
    assert root.tag == f"{SVG}svg"
    assert len(list(root.iter(f"{SVG}path"))) > 5
    assert waiting.value.suggested_filename.endswith(".svg")
    assert [url for url in watched.requests if not url.startswith(("data:", watched.url))] == []
    assert watched.errors == []


@pytest.mark.parametrize("width", [1280, 400])
def test_hostile_names_in_a_section_do_nothing(
    watch: Any, run_folder: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(sections_of_run, "SECTIONS", [lambda run: made_up(run, " ".join(HOSTILE))])
    watched = watch(write_report(run_folder), width=width)
    watched.scroll_through()
    assert watched.errors == []
    assert watched.requests == [watched.url]
    assert watched.page.locator("img").count() == 0
    assert watched.page.evaluate("document.documentElement.scrollWidth") == width
