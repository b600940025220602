"""Every file of a run folder: a digit or bit changed, two SAEs' files exchanged, gone. Every command that reads it
says so, or makes it again with the bytes it had.
"""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import support.scored_run as scored_run
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.report.results import results_csv
from strata_sae.pipeline.report.run_data import Run, read_run
from strata_sae.pipeline.runs.chain import UNHASHED
from strata_sae.pipeline.runs.folders import FixedPath, RunFolder, VariantFolder
from strata_sae.pipeline.trainer.train import train
from support.scored_run import Made
from support.sealing import age, edit, load, seal, unhash

TOPK, BATCH = scored_run.SAES[:2]
OF_RUN = {
    "config": ("report",),  # train and evaluate write it or do not look at it
    "environment": ("train", "report"),
    "store": ("report",),
    "report": (),
    "results": (),
    "tables": (),
    "tracking": (),  # tests/tracking/; no stage reads it
    "comparisons": (),  # tests/report/test_comparisons_section.py; evaluate makes it again
    "claims": (),  # tests/runs/, tests/trainer/: who works on the run now
    "judged": (),  # tests/test_judging.py
    "analysis": (),  # tests/analysis/; no stage reads it
    "answers": (),  # tests/endpoint/: what was paid for, in lines that are checked one by one
    "hypotheses": (),  # tests/interpretation/; no stage reads it
    "stability": (),  # as comparisons, and tests/evaluation/test_stability.py
}
"""Property of RunFolder -> the commands that read that file. `train` compares the environment where it trains."""
OF_SAE = {
    "config": ("train", "evaluate", "report"),
    "weights": ("evaluate", "report"),
    "curves": ("train", "evaluate", "report"),
    "training": ("train", "evaluate", "report"),
    "metrics": ("evaluate", "report"),
    "features": ("evaluate", "report"),
    "examples": ("evaluate", "report"),
    "absorption": (),  # tests/evaluation/test_absorption_run.py, tests/report/test_absorption_section.py
    "per_document": ("evaluate",),
    "probing": (),  # tests/evaluation/test_probing.py, tests/report/test_probing_section.py
    "truth": (),  # tests/evaluation/test_truth_record.py
    "codes": (),  # tests/stores/, tests/codes/
    "token_labels": (),  # tests/queries/test_labels_files.py, tests/report/test_token_f1.py
    "label_arrays": (),  # the same
    "token_counts": (),  # the same
    "interpretation": (),  # tests/queries/test_explanations.py, tests/report/test_interpretation_section.py
    "interpretations": (),  # a table for people, written anew with its record
    "published": (),  # the same
    "ablations": (),  # tests/intervention/, tests/analysis/
    "match": (),  # tests/test_matching.py
    "model_metrics": (),  # tests/intervention/test_bad_input.py, tests/report/test_model_section.py
    "failures": (),  # tests/trainer/test_lots.py
    "checkpoints": (),  # tests/trainer/test_checkpoint.py
}
PLACES = [(name, command) for name, commands in OF_SAE.items() for command in commands]
REFUSED_WHEN_GONE = [(command, name) for name in ("config", "weights", "curves") for command in OF_SAE[name]]
POSITIONS = [0.02, 0.3, 0.5, 0.7, 0.98]
"""Where in a file, as a share of its length."""


def properties(folder: type) -> set[str]:
    """Names of what lies in a folder, as its class says."""
    found = {name: value for name, value in vars(folder).items() if isinstance(value, property)}
    computed = {name for name, value in found.items() if value.fget.__annotations__["return"] is Path}
    return computed | {name for name, value in vars(folder).items() if isinstance(value, FixedPath)}


def test_no_file_of_a_run_folder_is_left_out():
    assert properties(RunFolder) == OF_RUN.keys()
    assert properties(VariantFolder) == OF_SAE.keys()


def flip(path: Path, share: float) -> None:
    """Another digit near a place of a text, or another bit there of anything else."""
    data = bytearray(path.read_bytes())
    place = int(share * (len(data) - 1))
    if path.suffix == ".safetensors":
        data[place] ^= 1
    else:
        digits = [match.start() for match in re.finditer(rb"[0-9]", data)]
        for digit in sorted(digits, key=lambda digit: abs(digit - place)):
            changed = data.copy()
            changed[digit] = ord("0") + (data[digit] - ord("0") + 1) % 10
            # The 17th digit of a number may stand for the same double, which is no change.
            if path.suffix != ".json" or json.loads(changed) != json.loads(data):
                break
        data = changed
    path.write_bytes(data)


def train_again(made: Made) -> None:
    train(made.config, show_progress=False)


COMMANDS: dict[str, Callable[[Made], None]] = {"train": train_again, "evaluate": lambda made: evaluate(made.config)}


def csv_row(run: Run, sae: str) -> dict[str, str]:
    rows = csv.DictReader(io.StringIO(results_csv(run)))
    return next(row for row in rows if f"{row['variant']}@{row['site']}" == sae)


def assert_seen(command: str, made: Made, run: Path, path: Path) -> None:
    """The command names the file. A report shows nothing that rests on it."""
    if command == "report":
        shown = read_run(run)
        assert any(path.name in line for line in shown.missing), shown.missing
        assert not any(str(run) in line for line in shown.missing)
        if path.name not in ("curves.jsonl", "examples.json") and path.parent.name == TOPK:
            assert csv_row(shown, TOPK)["r2_pooled [fraction of variance]"] == ""
        return
    with pytest.raises(
        CheckpointError, match=rf"{re.escape(path.name)}|{re.escape(path.parent.name)} was made by"
    ) as caught:
        COMMANDS[command](made)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", POSITIONS)
@pytest.mark.parametrize(("name", "command"), PLACES)
def test_a_digit_or_bit_changed(made: Made, run: Path, name: str, command: str, share: float):
    path = getattr(RunFolder(run).variant(TOPK), name)
    flip(path, share)
    assert_seen(command, made, run, path)


@pytest.mark.parametrize(("name", "command"), PLACES)
def test_the_files_of_two_saes_exchanged(made: Made, run: Path, name: str, command: str):
    one, two = (getattr(RunFolder(run).variant(sae), name) for sae in (TOPK, BATCH))
    one.rename(run / "between")
    two.rename(one)
    (run / "between").rename(two)
    assert_seen(command, made, run, one)


@pytest.mark.parametrize(("name", "command"), PLACES)
def test_a_file_that_is_gone(made: Made, run: Path, name: str, command: str):
    path: Path = getattr(RunFolder(run).variant(TOPK), name)
    before = path.read_bytes()
    path.unlink()
    if command == "report":
        lines = read_run(run).missing if name != "config" else [f"{TOPK}/config.json: not there"]
        assert f"{TOPK}/{path.name}: not there" in lines
        return
    if (command, name) in REFUSED_WHEN_GONE:
        with pytest.raises(CheckpointError, match=re.escape(path.name)):
            COMMANDS[command](made)
        return
    COMMANDS[command](made)  # makes it again; but evaluate takes an SAE without training.json for one not yet trained
    assert path.exists() == ((command, name) != ("evaluate", "training"))
    assert not path.exists() or path.read_bytes() == before


@pytest.mark.parametrize("share", POSITIONS)
@pytest.mark.parametrize("name", [name for name, commands in OF_RUN.items() if "report" in commands])
def test_a_digit_changed_in_a_record_of_the_run(made: Made, run: Path, name: str, share: float):
    path = getattr(RunFolder(run), name)
    flip(path, share)
    assert_seen("report", made, run, path)


def test_the_store_record_of_another_run(made: Made, run: Path):
    edit(run / "store.json", {"store_id": "ab" * 32})
    shown = read_run(run)
    assert not shown.store
    assert any("store.json: is of another store" in line for line in shown.missing)


def test_train_sees_a_changed_environment(made: Made, run: Path):
    flip(run / "environment.json", 0.5)
    shutil.rmtree(RunFolder(run).variant(TOPK).path)
    with pytest.raises(CheckpointError, match=r"environment\.json: its self_sha256"):
        train_again(made)


@pytest.mark.parametrize("name", ["weights", "curves", "features", "metrics"])
def test_control_with_the_hashes_made_anew_the_bytes_are_used(made: Made, run: Path, name: str):
    """What refuses above is the chain, and nothing else."""
    folder = RunFolder(run).variant(TOPK)
    if name == "metrics":
        edit(folder.metrics, lambda record: record["metrics"]["r2_pooled"].update(value=0.906))
    else:
        path = getattr(folder, name)
        flip(path, 0.98)
        changed = path.read_bytes()
    seal(folder.path)
    shown = read_run(run)
    assert shown.missing == []
    if name == "metrics":
        assert csv_row(shown, TOPK)["r2_pooled [fraction of variance]"] == "0.906"
    evaluate(made.config)
    train_again(made)
    assert name == "metrics" or path.read_bytes() == changed


def test_a_run_of_an_earlier_version_opens_and_says_what_was_not_checked(made: Made, run: Path, caplog):
    for path in run.glob("variants/*"):
        age(path)
    for path in run.glob("variants/*/metrics.json"):
        edit(path, lambda record: record.pop("sha256") and None)
    for path in run.rglob("*.json"):
        unhash(path)
    (run / "config.yaml").write_text((run / "config.yaml").read_text().partition("\n")[2])
    folder = RunFolder(run).variant(TOPK)
    value = load(folder.metrics)["metrics"]["r2_pooled"]["value"]
    shown = read_run(run)
    assert shown.missing == []
    assert len(shown.unchecked) == 1
    assert shown.unchecked[0].endswith(UNHASHED)
    for name in ("config.yaml", "environment.json", "store.json", "config.json (4)", "metrics.json (3)"):
        assert name in shown.unchecked[0]
    assert csv_row(shown, TOPK)["r2_pooled [fraction of variance]"] == repr(value)
    with caplog.at_level("INFO"):
        train_again(made)
        evaluate(made.config)
        evaluate(made.config)
    assert UNHASHED in caplog.text
    assert "scoring topk, batch, relu" in caplog.text or "scoring batch, relu, topk" in caplog.text
    assert load(folder.metrics)["metrics"]["r2_pooled"]["value"] == value
    assert "topk@blocks.1.hook_resid_post: scored already" in caplog.text


def test_what_version_1_hashed_is_finished_and_scored_for_todays_config(made: Made, run: Path, caplog):
    for path in run.glob("variants/*"):
        age(path)
    before = {path: path.read_bytes() for path in run.glob("variants/*/*")}
    with caplog.at_level("INFO"):
        train_again(made)
        evaluate(made.config)
    assert caplog.text.count("scored already") == 3
    assert {path: path.read_bytes() for path in run.glob("variants/*/*")} == before
    assert read_run(run).missing == []
    metrics = load(RunFolder(run).variant(TOPK).metrics)
    assert "fired" in metrics["definitions"]["dead_latents"], "control: they are in the words of version 1"
