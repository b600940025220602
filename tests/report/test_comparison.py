"""Runs side by side: equal rows or the reason why not, what differs, and the SAEs that no other one beats."""

import csv
import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.pages.text import UNKNOWN
from strata_sae.pipeline.report.comparison import (
    Comparison,
    Entry,
    compare,
    differing_settings,
    frontier,
    read_comparison,
    unequal_definitions,
)
from strata_sae.pipeline.report.comparison_page import render, statement, write_comparison
from strata_sae.pipeline.report.run_data import Run, Trained
from strata_sae.pipeline.runs.evaluation_records import Metrics
from strata_sae.pipeline.runs.record_files import read_record, write_yaml
from strata_sae.pipeline.strict_yaml import parse, unparse
from support.made_up_run import HOSTILE, SITES, VARIANTS, write_run
from support.page_parser import Page
from support.sealing import edit, seal

SITE = next(iter(SITES))


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [write_run(tmp_path / "first"), write_run(tmp_path / "second")]


def change_config(run: Path, **values: Any) -> None:
    text = (run / "config.yaml").read_text(encoding="utf-8").partition("\n")[2]
    config = parse(text, "config.yaml")[0]
    assert isinstance(config, dict)
    for key, value in values.items():
        first, _, second = key.partition("__")
        if second:
            config[first][second] = value  # type: ignore[index, call-overload]
        else:
            config[first] = value
    write_yaml(run / "config.yaml", unparse(config))


def test_equal_rows_are_comparable_and_stand_together(two: list[Path]) -> None:
    comparison = read_comparison(two)
    assert len(comparison.populations) == 1
    assert [comparison.clashes(site) for site in comparison.sites] == [[], []]
    assert [(entry.sae.variant, entry.run) for entry in comparison.sites[SITE]] == [
        (name, run) for name in VARIANTS for run in (0, 1)
    ]
    text = Page(write_comparison(two)).text
    assert "At each site all scores were measured on equal rows." in text
    assert "Not comparable" not in text


CLASHES = [
    ({"store_id": "aa" * 32}, "other stores"),
    ({"n_rows": 5}, "other numbers of rows"),
    ({"split": "train"}, "other splits"),
    (
        {"filters": {"drop_bos": False, "drop_special": True, "drop_template": False, "max_norm_multiple": None}},
        "filters",
    ),
]


def test_a_limit_that_leaves_the_same_rows_is_no_clash(two: list[Path]) -> None:
    """At most `max_rows` rows are scored, the first ones: a limit above the number there are changes none."""
    evaluation = {"max_rows": 10**6, "example_latents": 6, "examples_per_latent": 6, "context_tokens": 12}
    for path in two[1].glob("variants/*/metrics.json"):
        edit(path, {"evaluation": evaluation})
    assert len(read_comparison(two).populations) == 1
    for path in two[1].glob("variants/*/metrics.json"):  # control: one that leaves fewer
        edit(path, {"evaluation": evaluation | {"max_rows": 7}, "n_rows": 7})
    assert len(read_comparison(two).populations) == 2


@pytest.mark.parametrize(("change", "said"), CLASHES)
def test_unequal_rows_are_marked_at_their_site_only(two: list[Path], change: dict[str, Any], said: str) -> None:
    for path in two[1].glob(f"variants/*@{SITE}/metrics.json"):
        edit(path, change)
        if "store_id" in change:  # the whole chain is of that store
            edit(path.parent / "config.json", change)
            seal(path.parent)
    comparison = read_comparison(two)
    assert [bool(comparison.clashes(site)) for site in comparison.sites] == [True, False]
    assert len(comparison.populations) == 2
    page = write_comparison(two)
    text = Page(page).text
    assert f"Not all scores can be compared: at {SITE} they were measured on unequal rows." in text
    assert text.count("Not comparable: rows with different marks were scored on") == 1
    assert said in text
    rows = list(csv.DictReader(page.with_suffix(".csv").read_text(encoding="utf-8").splitlines()))
    marks = {(row["run"], row["site"]): row["population"] for row in rows if row["population"]}
    assert set(marks) == set(itertools.product(("first", "second"), SITES))
    assert {key for key, mark in marks.items() if mark == "B"} == {("second", SITE)}
    # An SAE of other rows beats none: each run has a frontier of its own at that site.
    best = {(row["run"], row["site"], row["variant"]) for row in rows if row["on frontier"] == "yes"}
    assert {site for run, site, _ in best if run == "second"} == set(SITES)


def made_up(numbers: list[tuple[float, float, int]]) -> list[Entry]:
    class Scored(Trained):
        def value(self, metric: str) -> float | None:
            return self.curves[metric == "l0"]  # type: ignore[return-value, index]

    saes = [Scored("v", "s", None, None, None, None, [r2, l0]) for r2, l0, _ in numbers]  # type: ignore[list-item]
    return [Entry(0, sae, population, False) for sae, (_, _, population) in zip(saes, numbers, strict=True)]


@pytest.mark.parametrize("seed", range(20))
def test_the_frontier_is_that_of_a_sweep_over_sorted_points(seed: int) -> None:
    """Reference: sorted by L0, then by falling R2, a point is on it if its R2 is above all before."""
    draw = random.Random(seed)
    numbers = [(draw.randrange(6) / 8, float(draw.randrange(6)), draw.randrange(2)) for _ in range(15)]
    wanted = set()
    for population in (0, 1):
        best = -1.0
        for l0, group in itertools.groupby(
            sorted({(l0, r2) for r2, l0, p in numbers if p == population}), lambda p: p[0]
        ):
            top = max(r2 for _, r2 in group)
            if top > best:
                wanted |= {at for at, number in enumerate(numbers) if number == (top, l0, population)}
                best = top
    assert frontier(made_up(numbers)) == wanted


def test_only_settings_that_differ_are_shown(two: list[Path]) -> None:
    assert differing_settings(read_comparison(two)) == []
    change_config(two[1], seed=3, name="second", report={"title": "x"}, training__batch_size=4096)
    variants: dict[str, Any] = {name: {"sae": {"architecture": name.split("-")[0]}} for name in VARIANTS}
    del variants["matryoshka"]
    variants["topk"]["sae"]["architecture"] = "abs"
    change_config(two[1], variants=variants)
    assert dict(differing_settings(read_comparison(two))) == {
        "seed": ["0", "3"],
        "training.batch_size": ["2048", "4096"],
        "variants.topk.sae.architecture": ["topk", "abs"],
        "variants.matryoshka": ["there", UNKNOWN],
    }
    text = Page(write_comparison(two)).text
    assert "training.batch_size" in text
    assert "training.n_steps" not in text


def test_metrics_that_are_defined_otherwise_are_named(two: list[Path]) -> None:
    assert unequal_definitions(read_comparison(two).runs) == []
    for path in two[1].glob("variants/*/metrics.json"):
        edit(path, lambda record: record["metrics"]["cosine_similarity"].update(definition="Another one."))
    assert unequal_definitions(read_comparison(two).runs) == ["cosine_similarity"]
    assert "the runs define cosine_similarity in different ways" in " ".join(Page(write_comparison(two)).text.split())


def test_the_table_and_the_csv_hold_what_was_measured(two: list[Path]) -> None:
    for number, path in enumerate(sorted(two[1].glob("variants/*/metrics.json"))):
        edit(path, lambda record, number=number: record["metrics"]["r2_pooled"].update(value=0.5 + number / 100))
    page = write_comparison(two)
    assert (page.name, page.parent) == ("first+second.html", two[0].parent.resolve())
    rows = list(csv.DictReader(page.with_suffix(".csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 2 * len(SITES) * len(VARIANTS)
    for row in rows:
        path = page.parent / row["run"] / "variants" / f"{row['variant']}@{row['site']}" / "metrics.json"
        if not path.exists():
            assert row["status"] == "diverged"
            continue
        record = read_record(path, Metrics).record
        for name, measured in record.metrics.items():
            assert float(row[f"{name} [{measured.unit}]"]) == measured.value
        assert (int(row["n_rows"]), row["store_id"]) == (record.n_rows, record.store_id)


def test_the_page_is_self_contained_and_hostile_names_are_text(two: list[Path], tmp_path: Path) -> None:
    def shape(path: Path) -> list[tuple[str, list[str]]]:
        return [(tag, sorted(attrs)) for tag, attrs in Page(path).elements]

    before = write_comparison(two)
    whole = shape(before)
    page = Page(before)
    assert not [a for _, a in page.elements if set(a) & {"src", "href"} and not str(a.get("href")).startswith("#")]
    assert page.policy()["default-src"] == "'none'"
    for text in HOSTILE[:6]:
        for run in two:
            for path in run.glob("variants/*/metrics.json"):
                edit(path, lambda record, text=text: record["metrics"]["l0"].update(unit=text, definition=text))
        assert shape(write_comparison(two)) == whole


def test_equal_names_are_told_apart_and_many_names_fit(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(number) / ("n" * 90)) for number in range(3)]
    comparison = read_comparison(runs)
    assert comparison.names == [f"{'n' * 90} ({number})" for number in (1, 2, 3)]
    assert write_comparison(runs).name == f"{'n' * 90}+2 others.html"


def test_bad_input_is_told(two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="name a run twice"):
        read_comparison([two[0], two[0].parent / "x" / ".." / "first"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="train first"):
        read_comparison([two[0], tmp_path / "empty"])
    monkeypatch.chdir(tmp_path)
    for arguments, said in [
        (("first", "nowhere"), "or the folders of runs"),
        (("nowhere", "first"), "or the folders of runs"),
        (("first", "second", "--set", "seed=1"), "--set"),
    ]:
        result = CliRunner().invoke(app, ["report", *arguments])
        assert (result.exit_code, said in result.stderr) == (2, True)
    assert CliRunner().invoke(app, ["report", "first", "second"]).exit_code == 0
    assert (tmp_path / "first+second.html").exists()


def test_runs_without_scores_have_a_page(tmp_path: Path) -> None:
    runs = [Run(name, {}, None, None, [Trained("v", "s", None, None, None, None, [])]) for name in ("a", "b")]
    comparison: Comparison = compare(runs)
    assert "Nothing has been scored yet." in statement(comparison)
    assert "not finished" in render(comparison)
