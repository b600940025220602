"""A run folder and a store of an older commit are today's: nothing is extracted or trained, no score is another one."""

import csv
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from strata_sae.pipeline.commands.app import app
from strata_sae.stores import Batches
from support import old_run
from support.golden import machine
from support.old_run import CONFIG, DIVERGED, N_SAES, RUN, STORE, contents, different, scores

WRITTEN_BY_EVALUATE = {
    "metrics.json", "examples.json", "features.safetensors", "store.json", "per_document.json",
    "comparisons.json", "stability.json",
}  # fmt: skip
WRITTEN_ANEW = {*WRITTEN_BY_EVALUATE, "config.yaml", "report.html", "results.csv"}
TOPK = RUN / "variants/topk@blocks.1.hook_mlp_out"


@dataclass
class Work:
    """What was done since the archive was unpacked."""

    models: int = 0
    """Language models that were loaded, as extraction has to."""
    batches: int = 0
    """Batches that were read to train on; an update needs one."""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """The archive is unpacked into the working folder; what is done there is counted."""
    from transformers import PreTrainedModel

    done = Work()
    load, batch = PreTrainedModel.from_pretrained.__func__, Batches.batch

    def counted_load(cls: type, *arguments: Any, **options: Any) -> Any:
        done.models += 1
        return load(cls, *arguments, **options)

    def counted_batch(batches: Batches, step: int) -> Any:
        done.batches += 1
        return batch(batches, step)

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(counted_load))
    monkeypatch.setattr(Batches, "batch", counted_batch)
    monkeypatch.chdir(old_run.unpack(tmp_path))
    return done


def strata(command: str, *options: str) -> Result:
    return CliRunner().invoke(app, ["--quiet", command, CONFIG, *options])


def kept(run: Path = RUN) -> dict[str, tuple[bytes, int]]:
    """Every file of the run that only training writes."""
    return {
        name: found
        for name, found in contents(run).items()
        if Path(name).name not in WRITTEN_ANEW and not name.startswith("tables/")
    }


def is_recorded_machine() -> bool:
    """Whether bits have to be those of the archive here."""
    return bool(machine(RUN) == json.loads(Path("machine.json").read_text(encoding="utf-8")))


def results() -> list[dict[str, str]]:
    with (RUN / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rows_of_page() -> list[tuple[str, list[str]]]:
    """Variant and cells of every row of the page's tables of results."""
    page = (RUN / "report.html").read_text(encoding="utf-8")
    rows = re.findall(r'<tr><th scope="row" data-key="(\w+)">(.*?)</tr>', page, flags=re.DOTALL)
    return [(variant, re.findall(r"<td [^>]*>(.*?)</td>", cells)) for variant, cells in rows]


def test_run_finds_everything_finished_and_changes_no_file_of_store_and_training(work: Work) -> None:
    store, trained = contents(STORE), kept()
    done = strata("run")
    assert done.exit_code == 0, done.output
    assert work == Work(models=0, batches=0)
    assert contents(STORE) == store
    assert kept() == trained
    assert len([name for name in trained if name.endswith("weights.safetensors")]) == N_SAES


def test_every_score_is_the_float_that_it_was(work: Work) -> None:
    old, exact = scores(RUN), is_recorded_machine()
    written = contents(RUN)
    assert len({key.partition("/")[0] for key in old}) == N_SAES - 2, "all but those that diverged"
    assert strata("run").exit_code == 0
    assert {name for name, found in contents(RUN).items() if written.get(name) != found} >= {
        name for name in written if name.endswith("metrics.json")
    }, "they carried no hash of themselves, so they are measured again"
    assert different(old, scores(RUN), exact=exact) == []

    for path in RUN.glob("variants/*/metrics.json"):
        path.unlink()
    assert strata("evaluate").exit_code == 0
    assert different(old, scores(RUN), exact=exact) == []
    assert work == Work(models=0, batches=0)


def test_a_second_run_measures_nothing_again(work: Work) -> None:
    def measured() -> dict[str, tuple[bytes, int]]:
        ours = WRITTEN_BY_EVALUATE - {"store.json"}
        return {name: found for name, found in contents(RUN).items() if Path(name).name in ours}

    assert strata("run").exit_code == 0
    once = measured()
    assert strata("run").exit_code == 0
    assert measured() == once


@pytest.mark.parametrize("command", ["report", "run"])
def test_the_report_has_a_row_for_each_sae_and_no_dash_where_there_is_a_score(work: Work, command: str) -> None:
    old = results()
    done = strata(command)
    assert done.exit_code == 0, done.output
    rows = rows_of_page()
    assert sorted(variant for variant, _ in rows) == sorted(line["variant"] for line in old)
    assert len(rows) == N_SAES
    for variant, cells in rows:
        assert len(cells) >= 10
        assert all((cell == "\N{EN DASH}") == (variant == DIVERGED) for cell in cells), (variant, cells)
    assert 'id="missing"' not in (RUN / "report.html").read_text(encoding="utf-8")
    new = results()
    if command == "report" or is_recorded_machine():
        assert [{column: line[column] for column in old[0]} for line in new] == old


def test_the_page_shows_examples_and_the_config_in_the_archive(work: Work) -> None:
    assert strata("report").exit_code == 0
    page = (RUN / "report.html").read_text(encoding="utf-8")
    assert page.count('class="example"') >= 2 * (N_SAES - 2)
    assert "learning_rate: 0.003" in page


@pytest.mark.parametrize(
    ("key", "was", "now"),
    [("learning_rate", "3e-3", "4e-3"), ("dead_after_", "256", "257"), ("target", "4", "5"), ("start", "1e-3", "2e-3")],
)
def test_the_control_a_changed_value_is_refused_by_name(work: Work, key: str, was: str, now: str) -> None:
    trained, config = kept(), Path(CONFIG)
    changed, n = re.subn(rf"({key}\w*: ){was}", rf"\g<1>{now}", config.read_text(encoding="utf-8"))
    assert n == 1
    config.write_text(changed, encoding="utf-8")
    refused = strata("run")
    assert refused.exit_code == 1
    assert re.search(rf"{key}\w*: was [\d.e-]+, is [\d.e-]+", refused.stderr), refused.stderr
    assert work.batches == 0
    assert kept() == trained


def test_the_control_changed_weights_are_refused_by_name(work: Work) -> None:
    weights = TOPK / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    refused = strata("run")
    assert refused.exit_code == 1
    assert f"{weights}: sha256" in refused.stderr


def test_the_control_a_changed_model_is_refused_by_name(work: Work) -> None:
    weights = Path("model/model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    refused = strata("run")
    assert refused.exit_code == 2
    assert "model.safetensors" in refused.stderr


def test_the_control_an_sae_that_is_gone_is_trained_again_and_the_others_are_not(work: Work) -> None:
    before = kept()
    shutil.rmtree(TOPK)
    assert strata("run").exit_code == 0
    assert work.batches >= 40
    after = kept()
    mine = f"variants/{TOPK.name}/"
    others = {name for name in before if not name.startswith((mine, "loader/")) and name != "environment.json"}
    assert {name: after[name] for name in others} == {name: before[name] for name in others}
    if is_recorded_machine():
        weights = f"{mine}weights.safetensors"
        assert after[weights][0] == before[weights][0]


def test_the_control_a_store_that_is_gone_is_extracted(work: Work) -> None:
    assert strata("extract", "--set", "store.path=another").exit_code == 0
    assert work.models >= 1
