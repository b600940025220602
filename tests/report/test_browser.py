"""The page in a real browser: it draws, it obeys its own policy, and it asks for nothing."""

import itertools

import pytest
from playwright.sync_api import expect

from strata_sae.pipeline.report.comparison_page import write_comparison
from strata_sae.pipeline.report.page import write_report
from support.made_up_run import HOSTILE, SITES, TOKENS, VARIANTS, write_run
from support.sealing import edit

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("width", [1280, 400])
def test_every_figure_is_drawn_without_errors_or_requests(watch, run_folder, width):
    watched = watch(write_report(run_folder), width=width)
    watched.scroll_through()
    page = watched.page
    plots = page.locator(".plot")
    panels = page.locator("[data-panel]")
    assert panels.count() == 14
    of_sections = page.locator("[data-figure=section]").count()
    assert of_sections == len(SITES) + 1  # redundancy, and the schedules
    assert plots.count() == 1 + 6 * len(SITES) + panels.count() + of_sections  # the first one is beside the statement
    for place in range(plots.count()):
        plots.nth(place).locator("svg.main-svg").first.wait_for(state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert watched.errors == []
    assert watched.requests == [watched.url]


def test_the_first_screen_holds_the_statement_a_figure_and_an_example(watch, run_folder):
    """All of it, of a laptop's 1280 x 800; the control is the section that follows."""
    watched = watch(write_report(run_folder))
    bottom = "(selector) => document.querySelector(selector).getBoundingClientRect().bottom"
    for selector in (".statement", ".first .plot svg.main-svg", ".taste", ".numbers"):
        assert 0 < watched.page.evaluate(bottom, selector) <= 800, selector
    assert watched.page.evaluate(bottom, "#results") > 800
    assert watched.errors == []


def test_the_test_sees_a_policy_violation(watch, run_folder):
    """Control: a page whose script was changed after its hash was made shows an error and draws nothing."""
    path = write_report(run_folder)
    path.write_text(path.read_text(encoding="utf-8").replace('"use strict";', '"use strict"; '), encoding="utf-8")
    watched = watch(path)
    watched.scroll_through()
    assert any("Content Security Policy" in error for error in watched.errors)


def test_hostile_tokens_do_nothing(watch, tmp_path):
    tokens = [HOSTILE[place % len(HOSTILE)] for place in range(len(TOKENS))]
    watched = watch(write_report(write_run(tmp_path / "hostile", tokens=tokens)))
    watched.scroll_through()
    assert watched.errors == []
    assert watched.requests == [watched.url]
    assert watched.page.locator("img").count() == 0


def test_tables_sort_choices_choose_and_variants_hide(watch, run_folder):
    watched = watch(write_report(run_folder))
    watched.scroll_through()
    page = watched.page

    table = page.locator("#results table").first
    table.get_by_role("button", name="R²").click()
    assert "batch-topk" in table.locator("tbody th").first.inner_text()
    assert "topk-hot" in table.locator("tbody th").last.inner_text()  # no value: last in either direction
    table.get_by_role("button", name="R²").click()
    assert "relu-l1" in table.locator("tbody th").first.inner_text()
    assert "topk-hot" in table.locator("tbody th").last.inner_text()

    curves = page.locator('[data-figure="curves"]').first
    assert curves.locator(".scatterlayer .trace").count() == len(VARIANTS)
    page.locator("[data-curve=loss]").click()
    assert "loss" in curves.locator(".ytitle").text_content()
    page.locator(".chip", has_text="relu-l1").click()
    expect(curves.locator(".scatterlayer .trace")).to_have_count(len(VARIANTS) - 1)

    page.locator("#quantity").select_option("orthogonality/cos_3_17")
    expect(curves.locator(".scatterlayer .trace")).to_have_count(1)
    assert "orthogonality/cos_3_17" in curves.locator(".ytitle").text_content()
    page.locator("[data-curve=l0]").click()
    assert page.locator("#quantity").input_value() == ""

    assert page.locator("[data-dynamics=variant][aria-pressed=true]").inner_text() == "topk-orthogonal"
    panel = page.locator("[data-panel=competition]")
    expect(panel.locator(".scatterlayer .trace")).to_have_count(2)
    assert page.locator("[data-panel=competition] + .keys").inner_text().split("\n") == ["3, 17", "3, 40"]
    expect(page.locator("[data-panel=pairs] .scatterlayer .trace")).to_have_count(4)
    expect(page.locator("[data-panel=matrix] .scatterlayer .point")).to_have_count(4 * 9)
    page.locator("#dynamics").get_by_role("button", name="matryoshka").click()
    expect(panel).to_be_hidden()
    expect(page.locator("[data-panel=losses] .scatterlayer .trace")).to_have_count(1)
    page.locator("#dynamics").get_by_role("button", name="topk-orthogonal").click()
    expect(panel).to_be_visible()

    assert page.locator(".sae:visible").count() == 1
    page.locator("#examples").get_by_role("button", name="matryoshka").click()
    page.locator("#examples").get_by_role("button", name="blocks.20.hook_resid_post").click()
    shown = page.locator(".sae:visible")
    assert shown.count() == 1
    assert "matryoshka" in shown.locator("h3").inner_text()
    assert "blocks.20.hook_resid_post" in shown.locator("h3").inner_text()
    assert watched.errors == []


COVERED = """(box) => {
  const of = (selector) => [...box.querySelectorAll(selector)].map((item) => item.getBoundingClientRect());
  const [names, points] = [of(".annotation-text"), of(".scatterlayer .point")];
  const meet = (a, b) => a.left < b.right && a.right > b.left && a.top < b.bottom && a.bottom > b.top;
  return names.flatMap((name, i) => [...names.slice(i + 1), ...points].filter((other) => meet(name, other))).length;
}"""
"""How many names of points and points of a figure are covered by a name."""
CROWDED = {
    "relu-l1": (38.3, 0.675),
    "topk": (32.0, 0.7926),
    "topk-orthogonal": (32.0, 0.7803),
    "batch-topk": (35.0, 0.8017),
    "matryoshka": (34.1, 0.776),
}
"""L0 and R2: the name of topk-orthogonal, written straight beside its point, covers the point of matryoshka."""
BEST = ["topk", "batch-topk"]
"""Those that no other one beats: the comparison names them, once for both runs."""


@pytest.mark.parametrize("width", [1280, 400])
def test_names_cover_no_point_and_no_other_name(watch, run_folder, tmp_path, width):
    other = write_run(tmp_path / "other")
    for run, (name, (l0, r2)) in itertools.product((run_folder, other), CROWDED.items()):
        for path in run.glob(f"variants/{name}@*/metrics.json"):
            edit(path, lambda record, l0=l0: record["metrics"]["l0"].update(value=l0))
            edit(path, lambda record, r2=r2: record["metrics"]["r2_pooled"].update(value=r2))
    figure = '[data-figure="frontier"]'
    for path, named in ((write_report(run_folder), list(CROWDED)), (write_comparison([run_folder, other]), BEST)):
        watched = watch(path, width=width)
        watched.scroll_through()
        box = watched.page.locator(figure).first
        names = box.locator(".annotation-text")
        expect(names).to_have_count(len(named))
        assert sorted(names.all_text_contents()) == sorted(named)
        assert box.evaluate(COVERED) == 0
        if path.name == "report.html":  # control
            box.evaluate(
                "(box) => Plotly.relayout(box, {'annotations[1].ay': 0, 'annotations[2].ay': 0, "
                "'annotations[2].ax': 18, 'annotations[2].xanchor': 'left'})"
            )
            assert box.evaluate(COVERED) > 0
        assert watched.errors == []


A4_LANDSCAPE = 1030
"""Pixels that are left of the width of the paper (css pixels, count)."""


def test_print_keeps_colours_and_columns(watch, run_folder, tmp_path):
    watched = watch(write_report(run_folder), width=A4_LANDSCAPE)
    watched.scroll_through()
    page = watched.page
    hidden = "[...document.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth).length"
    colours = "getComputedStyle(document.querySelector('.mark')).printColorAdjust"
    controls = [page.locator(what).first for what in ("nav", ".choice", ".any", ".pickers", "#quantity")]
    assert page.evaluate(hidden) > 0  # control: on a screen of this width columns are cut, and boxes scroll
    assert page.evaluate(colours) == "economy"
    assert [control.is_visible() for control in controls] == [True] * 5
    page.emulate_media(media="print")
    assert page.evaluate(hidden) == 0
    assert page.evaluate("document.documentElement.scrollWidth") == A4_LANDSCAPE
    assert page.evaluate(colours) == "exact"
    assert [control.is_visible() for control in controls] == [False] * 5  # nothing can be pressed on paper
    assert page.locator("[data-panel=competition] + .keys").is_visible()
    assert len(page.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True)) > 10**5
    assert watched.errors == []


def test_dark_and_light_follow_the_reader(watch, run_folder):
    watched = watch(write_report(run_folder))
    watched.scroll_through()
    background = "getComputedStyle(document.body).backgroundColor"
    light = watched.page.evaluate(background)
    watched.page.emulate_media(color_scheme="dark")
    assert watched.page.evaluate(background) != light
    assert watched.errors == []


def test_the_comparison_of_two_runs_draws_its_figures(watch, run_folder, tmp_path):
    watched = watch(write_comparison([run_folder, write_run(tmp_path / "other")]))
    for place in range(len(SITES)):
        watched.page.locator(".plot").nth(place).locator("svg.main-svg").first.wait_for(state="attached")
    assert watched.page.locator(".plot .scatterlayer .trace").count() == len(SITES) * 3  # a frontier and two runs
    assert watched.errors == []
    assert [url for url in watched.requests if url != watched.url] == []


def test_no_long_name_widens_a_narrow_page(watch, run_folder):
    """Names of SAEs are as long as 255 letters: the last word of every summary, heading and term becomes one."""
    page = watch(write_report(run_folder), width=400).page
    lengthen = "(selector) => document.querySelectorAll(selector).forEach((one) => one.append(' ' + 'm'.repeat(255)))"
    page.evaluate(lengthen, "summary, h1, h2, h3, dt, dd, figcaption, th, td, p")
    assert page.evaluate("document.documentElement.scrollWidth") == 400
