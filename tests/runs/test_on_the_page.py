"""A run that was really trained and scored has every value of its records on the page, and no dash beside one."""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import support.scored_run as scored_run
from strata_sae.pipeline.pages.text import UNKNOWN
from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.report.results import ADDED_UP
from strata_sae.pipeline.report.run_data import read_run
from strata_sae.pipeline.runs.record_files import write_yaml
from strata_sae.pipeline.strict_yaml import parse, unparse
from support.page_parser import Page
from support.sealing import load
from support.small_run import SITE

NARROW = "\N{NARROW NO-BREAK SPACE}"
RECORDS = {"config.json", "training.json", "metrics.json", "examples.json"}
BINARY = {"weights.safetensors", "features.safetensors"}
WRITTEN = {"report.html", "results.csv"}
NOT_READ = {"per_document.json"}
"""What other records are made from: sums by document are in comparisons.json as numbers with intervals."""


def leaves(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(f"{key}.{name}", item)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from leaves(f"{key}.{place}", item)
    elif value is not None:
        yield key, value if isinstance(value, str) else json.dumps(value)


@pytest.fixture
def source(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def tables(source: str) -> dict[str, dict[str, str]]:
    """Title -> key -> text, of the generated tables."""
    found = {}
    for title, body in re.findall(
        r'<details class="record"><summary>Every value of (.*?)</summary>(.*?)</details>', source, re.S
    ):
        rows = re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td></tr>', body)
        found[html.unescape(title)] = {html.unescape(key): html.unescape(text) for key, text in rows}
    return found


def test_every_value_of_every_record_is_on_the_page(run: Path, source: str):
    shown = tables(source)
    seen = set()
    for path in (path for path in run.rglob("*") if path.is_file() and path.name not in WRITTEN):
        name = path.relative_to(run).as_posix()
        # Their hashes are in the records, and what is made of the sums is in comparisons.json.
        if path.name in (*BINARY, *NOT_READ) or path.parent.name == "tables":
            continue
        if path.name in ("environment.json", "store.json"):
            assert dict(leaves(path.stem, load(path))).items() <= shown[path.name].items()
        elif path.name in RECORDS:
            expected = dict(leaves(path.stem, load(path)))
            if path.name == "metrics.json":
                of_metrics = r"^(metrics\.(all_but_special\.)?metrics\..*)\.value$"
                expected = {re.sub(of_metrics, r"\1", key): expected[key] for key in expected}
            expected = {key: text for key, text in expected.items() if not elsewhere(key)}
            assert expected.items() <= shown[path.parent.name].items()
        elif path.name == "curves.jsonl":
            lines = path.read_text(encoding="utf-8").splitlines()
            if lines:
                last = dict(leaves("curves", json.loads(lines[-1])))
                expected = {key: text for key, text in last.items() if not elsewhere(key)}
                assert expected.items() <= shown[path.parent.name].items()
        elif name in shown:  # a record that a section reads
            expected = dict(leaves(name, load(path)))
            assert {key: text for key, text in expected.items() if not elsewhere(key)}.items() <= shown[name].items()
        elif path.parent.name == "loader":
            check_loader(path, shown[f"loader of {path.stem}"])
        elif path.suffix == ".json":  # of a section: what `Run.read` reads is listed under the file's own name
            expected = dict(leaves(path.relative_to(run).as_posix(), load(path)))
            assert expected.items() <= shown[path.relative_to(run).as_posix()].items()
        else:
            assert path.name == "config.yaml"
            assert "learning_rate: 0.003" in source
        seen.add(path.name)
    assert seen >= {"environment.json", "store.json", "curves.jsonl", f"{SITE}.jsonl", "config.yaml", *RECORDS}


def elsewhere(key: str) -> bool:
    """Shown as a figure, as definitions, or as examples: see the tests below."""
    own = r"metrics\.(all_but_special\.)?(density_histogram|definitions)|examples\.latents"
    own += r"|metrics\.(all_but_special\.)?metrics\..*\.(unit|definition)$"
    own += r"|curves\.similarity|comparisons\.json\.tables"
    return bool(re.match(own, key))


def check_loader(path: Path, shown: dict[str, str]) -> None:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines[0].keys() >= set(ADDED_UP)
    for key in lines[0]:
        value = sum(line[key] for line in lines) if key in ADDED_UP else lines[-1][key]
        assert float(shown[f"loader.{key}"]) == pytest.approx(value)


def test_control_a_value_that_is_not_shown_is_found(run: Path, source: str):
    shown = tables(source)
    title = scored_run.SAES[0]
    expected = dict(leaves("config", load(run / "variants" / title / "config.json")))
    for key in expected:
        less = {name: text for name, text in shown[title].items() if name != key}
        assert not expected.items() <= less.items(), key


def test_figures_definitions_and_examples_hold_the_rest(run: Path, source: str):
    page = Page(run / "report.html")
    (data,) = [json.loads(text) for _, attrs, text in page.raw if attrs.get("type") == "application/json"]
    for title in scored_run.SAES[:3]:
        folder = run / "variants" / title
        metrics, latents = load(folder / "metrics.json"), load(folder / "examples.json")["latents"]
        figure = data["sites"][SITE][title.partition("@")[0]]
        assert sum(figure["density"]["counts"]) == sum(metrics["density_histogram"]["counts"])
        for name, entry in metrics["metrics"].items():
            assert name in page.text or entry["value"] is None
            assert html.escape(entry["unit"]) in source
        for latent in latents:
            assert f"latent {latent['latent']} " in page.text
            for example in latent["examples"]:
                assert f'title="row {example["row"]}, position {example["position"]}"' in source


def test_no_cell_is_a_dash_where_the_run_has_data(run: Path, source: str):
    batches = re.search(r'<h3 id="batches">.*?</table>', source, re.S)
    assert batches
    cells = re.findall(r"<td>(.*?)</td>", batches[0])
    assert len(cells) == 7
    assert not [cell for cell in cells if UNKNOWN in cell]
    results = re.search(r'<section id="results">.*?</section>', source, re.S)
    assert results
    for variant in ("topk", "batch", "relu"):
        row = re.search(rf'<th scope="row" data-key="{variant}">.*?</tr>', results[0], re.S)
        assert row
        assert UNKNOWN not in row[0]
    # In the tables of sections a dash says something: no interval below 8 documents, no spread of one seed.
    own = re.sub(r'<table class="data">.*?</table>', "", source, flags=re.S)
    rows = re.findall(r"<tr>.*?</tr>", own, re.S)
    assert len([row for row in rows if "<td" in row]) > 100
    ours = [row for row in rows if ">unmatched<" not in row]  # seed 001's table has no value for some
    assert not [row for row in ours if UNKNOWN in row and "wild" not in row]
    assert [row for row in rows if UNKNOWN in row], "control: the scores of an SAE that diverged are unknown"
    facts = re.search(r'<dl class="numbers">.*?</dl>', source, re.S)
    assert facts
    assert "rows per second" in facts[0] or not load(run / "store.json")["timing"]


def test_variants_called_no_and_off_stay_two(run: Path):
    """One dialect of YAML: in another one both are `False`, and 1:30 is 90."""
    text = (run / "config.yaml").read_text(encoding="utf-8")
    plain = parse(text, "config.yaml")[0]
    renamed = {"no": "topk", "off": "batch", "1:30": "relu", "on": "wild"}
    variants = {new: plain["variants"][old] for new, old in renamed.items()}
    write_yaml(run / "config.yaml", unparse(plain | {"variants": variants}))
    assert list(read_run(run).config["variants"]) == list(renamed)
    assert read_run(run).config["training"]["window_rows"] == 512
