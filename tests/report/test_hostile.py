"""Tokens are text of strangers: none of them may become an element, an attribute, a script or a formula."""

import csv
import json
from pathlib import Path

import pytest

from strata_sae.pipeline.pages.text import csv_cell, script_json, visible
from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.runs.record_files import read_yaml, write_yaml
from strata_sae.pipeline.strict_yaml import unparse
from support.made_up_run import HOSTILE, TOKENS, write_run
from support.page_parser import Page
from support.sealing import edit, seal


def shape(path: Path) -> list[tuple[str, list[str]]]:
    return [(tag, sorted(attrs)) for tag, attrs in Page(path).elements]


def test_hostile_tokens_leave_the_page_as_it_is(tmp_path):
    hostile_tokens = [HOSTILE[place % len(HOSTILE)] for place in range(len(TOKENS))]
    benign = write_report(write_run(tmp_path / "benign"))
    hostile = write_report(write_run(tmp_path / "hostile", tokens=hostile_tokens))
    assert shape(hostile) == shape(benign)
    text = Page(hostile).text
    assert "<script>alert(1)</script>" in text  # shown, as text
    assert "␛[31mred␛[0m" in text
    assert "a⟨U+202E⟩b⟨U+2066⟩c" in text
    assert "⟨U+D800⟩" in text
    assert "{{ 7 * 7 }}" in text
    source = hostile.read_text(encoding="utf-8")
    assert not {"\x00", "\x1b", "\x85", "\u202e", "\u2066", "\u200b"} & set(source.split("<script>")[0])


def test_the_comparison_sees_an_injection(tmp_path):
    """Control: with the escaping of one token undone by hand, the shapes differ."""
    page = write_report(write_run(tmp_path / "run"))
    before = shape(page)
    source = page.read_text(encoding="utf-8")
    page.write_text(source.replace("<h4>latent", "<h4><b>latent", 1), encoding="utf-8")
    assert shape(page) != before


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_and_records_are_only_text(tmp_path, text):
    folder = write_run(tmp_path / "run")
    before = shape(write_report(folder))
    edit(folder / "store.json", lambda store: store["model"].update(model=text) or store | {"plan_id": text})
    edit(folder / "environment.json", {"platform": text})
    for path in folder.glob("variants/*/metrics.json"):
        edit(path, lambda record: record["metrics"]["l0"].update(unit=text, definition=text))
    if text.isprintable():  # UTF-8 or YAML forbid some of the others
        config, _ = read_yaml(folder / "config.yaml")
        write_yaml(folder / "config.yaml", config + unparse({"report": {"title": text}}))
    assert shape(write_report(folder, text)) == before


def test_hostile_folder_names(tmp_path):
    folder = write_run(tmp_path / "run")
    before = Page(write_report(folder)).elements
    old = folder / "variants" / "topk@blocks.9.hook_resid_post"
    name, site = '=1+1"><img src=x onerror=alert(1)>', "<b>"
    edit(old / "config.json", {"variant": name, "site": site})
    seal(old)
    old.rename(old.with_name(f"{name}@{site}"))
    page = Page(write_report(folder))
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in before}
    assert not any(key.startswith("on") for _, attrs in page.elements for key in attrs)
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        variants = [line["variant"] for line in csv.DictReader(file)]
    assert any(name.startswith("'=1+1") for name in variants)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", "\n="])
def test_no_csv_cell_begins_like_a_formula(start):
    cell = csv_cell(f"{start}HYPERLINK(1)")
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert "HYPERLINK(1)" in cell


def test_csv_numbers_stay_numbers():
    assert csv_cell(-0.5) == "-0.5"
    assert csv_cell(None) == ""


@pytest.mark.parametrize("text", HOSTILE)
def test_script_json_reads_back_and_cannot_end_its_element(text):
    written = script_json({text: [text]})
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == {visible(text): [visible(text)]}


def test_visible_leaves_ordinary_text_of_every_script_alone():
    text = "naïve Ωmega 漢字 עברית हिन्दी 😀 e\u0301 “q”"
    assert visible(text) == text
    assert visible("a\nb", keep_lines=True) == "a\nb"
    assert visible("a\nb") == "a↵b"
