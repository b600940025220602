"""token_f1 in results.csv and on the page: a column where codes were made, of what they were made of."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from strata_sae.pipeline.queries.labels import kept_labels
from strata_sae.pipeline.queries.opened import open_coded
from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.report.results import result_tables, results_csv
from strata_sae.pipeline.report.run_data import read_run
from support.coded_run import RUN, SITE, make

COLUMN = "token_f1 [F1, 0 to 1]"
SHARES = ("token_f1_above_half [share of labelled latents]", "token_f1_unlabelled [share of latents]")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make(folder := tmp_path_factory.mktemp("coded"))
    for path in (folder / RUN).glob("variants/*/token_*"):
        path.unlink()
    return folder / RUN


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def label(run: Path, *names: str) -> None:
    opened = open_coded(run)
    for name in names:
        kept_labels(opened.saes[f"{name}@{SITE}"], opened.text)


def rows(run: Path) -> dict[str, dict[str, str]]:
    lines = csv.DictReader(io.StringIO(results_csv(read_run(run))))
    return {line["variant"]: line for line in lines}


def value(run: Path, name: str, metric: str = "token_f1") -> float:
    data = json.loads((run / f"variants/{name}@{SITE}/token_labels.json").read_text(encoding="utf-8"))
    return float(data["metrics"][metric]["value"])


def test_without_labels_there_is_no_column(run: Path) -> None:
    assert not [head for line in rows(run).values() for head in line if "token_f1" in head]
    assert "token F1" not in [column.label for column in result_tables(read_run(run))[SITE].columns]
    assert not [line for line in read_run(run).missing if "token_labels" in line]


def test_the_column_is_of_the_labels(run: Path) -> None:
    label(run, "topk", "wide")
    found = rows(run)
    for name in ("topk", "wide"):
        assert float(found[name][COLUMN]) == value(run, name)
        for head in SHARES:
            assert float(found[name][head]) == value(run, name, head.partition(" ")[0])
    table = result_tables(read_run(run))[SITE]
    place = [column.label for column in table.columns].index("token F1")
    assert [row.cells[place].key for row in table.rows] == [value(run, row.variant) for row in table.rows]


def test_an_sae_without_labels_has_an_empty_cell(run: Path) -> None:
    label(run, "wide")
    found = rows(run)
    assert found["topk"][COLUMN] == ""
    assert float(found["wide"][COLUMN]) == value(run, "wide")


def test_labels_that_do_not_belong_are_told_and_not_shown(run: Path) -> None:
    label(run, "topk", "wide")
    for name in ("token_labels.json", "token_labels.safetensors"):
        shutil.copy(run / f"variants/wide@{SITE}" / name, run / f"variants/topk@{SITE}" / name)
    assert rows(run)["topk"][COLUMN] == ""
    assert [line for line in read_run(run).missing if "token_labels.json: sae: is" in line]


def test_damaged_labels_are_told_and_not_shown(run: Path) -> None:
    label(run, "topk", "wide")
    path = run / f"variants/topk@{SITE}/token_labels.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert rows(run)["topk"][COLUMN] == ""
    assert [line for line in read_run(run).missing if "token_labels.safetensors" in line]


def test_the_page_defines_it_and_has_every_value(run: Path) -> None:
    label(run, "topk", "wide")
    page = write_report(run).read_text(encoding="utf-8")
    assert "token F1" in page
    assert "Median over the labelled latents" in page
    for key in ("token_labels.codes_id", "token_labels.metrics.token_f1", "token_labels.n_labelled"):
        assert key in page
