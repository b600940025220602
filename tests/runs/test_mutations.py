"""Every leaf of every record replaced by what does not belong there, and the record's own hash made anew: one line
says what is wrong, or the page is made; nothing ends in a traceback.
"""

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import support.scored_run as scored_run
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.pages import frame
from strata_sae.pipeline.report.page import render
from strata_sae.pipeline.report.results import results_csv
from strata_sae.pipeline.report.run_data import read_run
from strata_sae.pipeline.report.sections_of_run import sections_of
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.record_files import fingerprint
from strata_sae.pipeline.trainer.train import train
from support.scored_run import Made
from support.sealing import load, seal

GONE, DEEP = object(), object()
VALUES: list[Any] = [None, "text", [], {}, float("nan"), 1e400, -1, "", True, 2.5, 10**400, DEEP, GONE]
OF_RUN = ("store.json", "environment.json")
OF_SAE = ("config.json", "training.json", "metrics.json", "examples.json")
Path_ = tuple[str | int, ...]


def leaves(value: Any, at: Path_ = ()) -> Iterator[Path_]:
    """Where values stand; of a list, the first item stands for all. Objects and lists count, too."""
    if at:
        yield at
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*at, key))
    elif isinstance(value, list) and value:
        yield from leaves(value[0], (*at, 0))


def spelled(record: dict[str, Any], at: Path_, value: Any) -> str:
    """The record as JSON, with one value replaced: also by what no writer would write."""
    changed = json.loads(json.dumps(record))
    parent = changed
    for key in at[:-1]:
        parent = parent[key]
    if value is GONE:
        del parent[at[-1]]
        return json.dumps(changed)
    parent[at[-1]] = "@"
    digits = "1" + "0" * 400
    text = {DEEP: "[" * 10**5 + "]" * 10**5, 10**400: digits}.get(value) if value in (DEEP, 10**400) else None
    if isinstance(value, float) and value == float("inf"):
        text = "1e400"
    return json.dumps(changed).replace('"@"', text or json.dumps(value), 1)


def write(path: Path, text: str) -> None:
    """With the hash of the changed content, where that has one."""
    try:
        record = json.loads(text)
        record["self_sha256"] = fingerprint(record)
        text = json.dumps(record)
    except (ValueError, RecursionError):
        pass  # NaN, infinite or too deep: no canonical form
    path.write_text(text, encoding="utf-8")


def cases(record: dict[str, Any], every: int) -> Iterator[tuple[Path_, Any]]:
    """Each leaf with every `every`-th value, another one each time."""
    turn = itertools.cycle(range(every))
    for at in leaves(record):
        for value in VALUES[next(turn) :: every]:
            yield at, value


def assert_told(error: Exception) -> None:
    assert str(error)
    assert "\n" not in str(error)


def one_page(run: Path) -> list[str]:
    shown = read_run(run)
    render(shown, None, sections_of(shown))
    results_csv(shown)
    return shown.missing


@pytest.fixture
def small(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One SAE, a page without plotly's megabytes, and a disk that need not be waited for a thousand times."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for sae in scored_run.SAES[1:]:
        shutil.rmtree(RunFolder(run).variant(sae).path)
    for record in (RunFolder(run).comparisons, RunFolder(run).stability):  # of the SAEs that are gone, too
        record.unlink(missing_ok=True)
    monkeypatch.setattr(frame, "get_plotlyjs", lambda: "")
    torch.set_num_threads(1)
    return run


@pytest.mark.parametrize("name", [*OF_RUN, *OF_SAE])
def test_no_changed_record_ends_the_report(small: Path, name: str):
    path = small / name if name in OF_RUN else RunFolder(small).variant(scored_run.SAES[0]).path / name
    whole = path.read_bytes()
    record = load(path)
    n_told = n_cases = 0
    for at, value in cases(record, every=6):
        write(path, spelled(record, at, value))
        n_told += any(name in line for line in one_page(small))
        n_cases += 1
    assert n_cases >= 20
    assert n_told > 0
    path.write_bytes(whole)
    assert one_page(small) == []  # control: what was told is told of the changed record alone


@pytest.mark.parametrize("name", OF_SAE)
def test_nor_with_every_hash_of_the_chain_made_anew(small: Path, name: str):
    """What is left to catch it are the types of the values alone."""
    folder = RunFolder(small).variant(scored_run.SAES[0]).path
    path = folder / name
    before = {file: file.read_bytes() for file in folder.glob("*.json")}
    record = load(path)
    for at, value in cases(record, every=6):
        text = spelled(record, at, value)
        try:
            path.write_text(text, encoding="utf-8")
            seal(folder)
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            write(path, text)  # what cannot be hashed
        one_page(small)
        for file, data in before.items():
            file.write_bytes(data)


@pytest.mark.parametrize("name", [*OF_RUN, *OF_SAE])
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_no_changed_record_ends_train_or_evaluate_otherwise_than_in_one_line(
    made: Made, small: Path, name: str, command: str
):
    path = small / name if name in OF_RUN else RunFolder(small).variant(scored_run.SAES[0]).path / name
    config = made.config.model_copy(update={"variants": {"topk": made.config.variants["topk"]}})
    whole, record = path.read_bytes(), load(path)
    n_refused = 0
    for at, value in cases(record, every=12):
        write(path, spelled(record, at, value))
        try:
            if command == "train":
                train(config, show_progress=False)
            else:
                evaluate(config)
        except (CheckpointError, ConfigError) as error:
            assert_told(error)
            n_refused += 1
        path.write_bytes(whole)
    reads = {"train": ("config.json", "training.json"), "evaluate": OF_SAE}[command]
    assert (n_refused > 0) == (name in reads)
