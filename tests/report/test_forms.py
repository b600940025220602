"""Two ways of inference of one SAE on the page and in results.csv, and which SAE of a kind is nearest the target L0."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.runs.record_files import write_yaml
from support.made_up_run import SITES, VARIANTS
from support.page_parser import Page
from support.sealing import edit

SITE = next(iter(SITES))


def lines(run: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (run / "results.csv").open(newline="", encoding="utf-8") as file:
        return {(line["variant"], line["site"]): line for line in csv.DictReader(file)}


def rows(page: Path) -> dict[str, tuple[str, list[str]]]:
    """Key of each row of the first table -> what is said beside the name, and its cells."""
    table = page.read_text(encoding="utf-8").split("<tbody>")[1].split("</tbody>")[0]
    found = re.findall(r'<tr><th scope="row" data-key="([^"]+)">(.*?)</th>(.*?)</tr>', table, flags=re.DOTALL)
    return {
        key: (" ".join(re.findall(r"<em[^>]*>(.*?)</em>", head)), re.findall(r"<td [^>]*>(.*?)</td>", cells))
        for key, head, cells in found
    }


def configured(run: Path, target: Any, **kinds: str) -> None:
    """A config.yaml that names a target L0 and kinds."""
    variants = {name: {"kind": kinds[name]} if name in kinds else {} for name in VARIANTS}
    config = {
        "name": "demo",
        "store": {"sites": list(SITES)},
        "evaluation": {"target_l0": target},
        "variants": variants,
    }
    write_yaml(run / "config.yaml", yaml.safe_dump(config, sort_keys=False))


def test_both_forms_have_a_row_and_a_column_of_their_own(run_folder):
    page = write_report(run_folder)
    table, csv_line = rows(page), lines(run_folder)["topk", SITE]
    assert list(table)[:5] == [
        "relu-l1", "topk", "topk/inference=threshold", "topk-orthogonal", "topk-orthogonal/inference=threshold",
    ]  # fmt: skip
    assert table["topk"][0] == ""
    assert table["topk/inference=threshold"][0] == "by threshold"
    assert table["batch-topk/inference=k"][0] == "by k"
    assert table["topk"][1][:2] == ["32.0", "0.8710"]
    assert table["topk/inference=threshold"][1][:2] == ["31.7", "0.8623"]
    assert table["topk"][1][-2:] == table["topk/inference=threshold"][1][-2:], "the decoder's cosines have one form"
    assert float(csv_line["r2_pooled [fraction of variance]"]) == 0.871
    assert float(csv_line["r2_pooled/inference=threshold [fraction of variance]"]) == pytest.approx(0.86229)
    assert csv_line["r2_pooled/inference=k [fraction of variance]"] == ""
    assert lines(run_folder)["relu-l1", SITE]["r2_pooled/inference=threshold [fraction of variance]"] == ""


def test_a_definition_stands_on_the_page_once(run_folder):
    text = Page(write_report(run_folder)).text.split("Definitions")[-1]
    assert text.count("pooled over all rows. A constant error counts as error.") == 1


KINDS = {"relu-l1": "a", "topk": "b", "topk-orthogonal": "b", "batch-topk": "b", "matryoshka": "b"}


def test_the_nearest_of_each_kind_is_marked(run_folder):
    """b: L0 32.0, 32.0, 32.4, 32.1; of a there is one, which had no choice."""
    configured(run_folder, 32.04, **KINDS)
    edit(run_folder / f"variants/batch-topk@{SITE}/metrics.json", lambda r: r["metrics"]["l0"].update(value=32.05))
    table = rows(write_report(run_folder))
    assert {key for key, (said, _) in table.items() if "nearest" in said} == {"batch-topk"}
    assert table["batch-topk"][0] == "nearest L0 32.04"
    found = lines(run_folder)
    marked = {key: line["nearest target L0"] for key, line in found.items() if line["nearest target L0"]}
    assert marked == {("batch-topk", SITE): "32.04", ("topk", list(SITES)[1]): "32.04"}
    assert found["topk", SITE]["kind"] == "b"
    assert found["topk-hot", SITE]["kind"] == ""


def test_of_equally_near_ones_the_lowest_fvu_is_marked(run_folder):
    configured(run_folder, 32.0, **KINDS)
    write_report(run_folder)
    marked = {key for key, line in lines(run_folder).items() if line["nearest target L0"]}
    assert marked == {("topk", site) for site in SITES}, "R2 .871 against .866 of topk-orthogonal"
    for site in SITES:
        path = run_folder / f"variants/topk-orthogonal@{site}/metrics.json"
        edit(path, lambda record: record["metrics"]["r2_pooled"].update(value=0.99))
    write_report(run_folder)
    marked = {key for key, line in lines(run_folder).items() if line["nearest target L0"]}
    assert marked == {("topk-orthogonal", site) for site in SITES}


def test_one_that_stopped_early_is_marked_too(run_folder):
    configured(run_folder, 32.04, **KINDS)
    edit(run_folder / f"variants/batch-topk@{SITE}/metrics.json", lambda r: r["metrics"]["l0"].update(value=32.05))
    edit(run_folder / f"variants/batch-topk@{SITE}/training.json", {"stopped_at_step": 6000, "best_step": 4000})
    table = rows(write_report(run_folder))
    assert table["batch-topk"][0] == "stopped early, weights of step 4\u202f000, nearest L0 32.04"


@pytest.mark.parametrize("target", [None, "32", True, [32]])
def test_without_a_target_none_is_marked(run_folder, target):
    configured(run_folder, target, **KINDS)
    assert not any("nearest" in said for said, _ in rows(write_report(run_folder)).values())
    configured(run_folder, 32.0)
    assert not any("nearest" in said for said, _ in rows(write_report(run_folder)).values()), "no kinds"
