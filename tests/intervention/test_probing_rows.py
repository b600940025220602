"""Rows of the tasks of sae-probes: made by the model where they are missing, from files alone, and probed."""

import csv
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import zstandard

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config.judging import ProbingSettings
from strata_sae.pipeline.config.run import ExtractConfig, TrainConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.intervention import labelled_rows, probing_rows
from strata_sae.pipeline.intervention.probing_rows import make_probing_rows
from strata_sae.pipeline.reading import probing_texts
from strata_sae.pipeline.reading.probing_texts import data_folder, task_names, task_texts
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.record_files import write_record
from strata_sae.stores import ActivationStore
from support.made_up_records import curve_line, ending, sae_record, write_lines
from support.tiny_models import D_MODEL, save_tiny_model

SITE = "blocks.1.hook_resid_post"
TASKS = ["1_king", "2_one class", "3_broken"]


def write_table(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *rows])
    path.write_bytes(zstandard.compress(text.getvalue().encode()))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder data/ as the package's: three tasks with two classes as the master table says, one of another kind."""
    folder = tmp_path / "package" / "data"
    (folder / "cleaned_data").mkdir(parents=True)
    named = [["Binary Classification", f"cleaned_data/{task}.csv"] for task in [*TASKS, "5_not there"]]
    named += [["Continuous Data", "cleaned_data/4_number.csv"]]
    write_table(folder / "probing_datasets_MASTER.csv.zst", ["Data type", "Dataset save name"], named)
    texts = [["the king, " * (n % 4) + f"of the town {n}", "9", ("no", "yes")[n % 2]] for n in range(250)]
    write_table(
        folder / "cleaned_data" / "1_king.csv.zst", ["prompt", "prompt_len", "target"], [*texts, [" ", "0", "no"]]
    )
    same = [[f"town {n}", "9", "yes"] for n in range(20)]
    write_table(folder / "cleaned_data" / "2_one class.csv.zst", ["prompt", "prompt_len", "target"], same)
    (folder / "cleaned_data" / "3_broken.csv.zst").write_bytes(b"no zstd")
    monkeypatch.setattr(probing_rows, "data_folder", lambda: folder)
    return folder


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A store of a tiny model, and a hand-made SAE of it."""
    monkeypatch.chdir(tmp_path)
    model = save_tiny_model(tmp_path / "model", "llama")
    (tmp_path / "text").mkdir()
    for n in range(12):
        (tmp_path / "text" / f"{n}.txt").write_text(f"the capital of the town of the king {n} " * 20, encoding="utf-8")
    data: dict[str, Any] = {
        "name": "run",
        "model": {"path": str(model), "device": "cpu"},
        "corpus": {
            "sources": [{"kind": "text", "paths": [str(tmp_path / "text" / "*")]}],
            "n_tokens": 2000,
            "context_length": 32,
            "heldout_fraction": 0.4,
        },
        "store": {"sites": [SITE]},
        "training": {"n_steps": 1, "warmup_steps": 0, "device": "cpu"},
        "variants": {
            "any": {
                "sae": {"architecture": "relu", "d_sae": 4},
                "objective": {"reconstruction": {}, "l1": {"weight": 0.1}},
            }
        },
        "evaluation": {"probing": {"tasks": TASKS, "token_tasks": [], "texts": 240}, "example_latents": 0},
    }
    run = RunConfig.model_validate(data)
    stages.extract_activations(ExtractConfig.of(run, "config.yaml"))
    store = ActivationStore.open(run.store_path())
    folder = RunFolder(Path("runs/run")).variant(f"any@{SITE}")
    rng = np.random.default_rng(0)
    W_EM = rng.standard_normal((40, D_MODEL)).astype(np.float32)
    zeros = {"b_enc": np.zeros(40, np.float32), "b_dec": np.zeros(D_MODEL, np.float32)}
    record = sae_record("any", SITE, {"architecture": "relu", "d_sae": 40}, d_out=D_MODEL, store_id=store.id)
    write_record(folder.config, record)
    safetensors.numpy.save_file({"W_enc": W_EM, "W_dec": W_EM, **zeros}, folder.weights)
    write_lines(folder.curves, [curve_line(1)])
    write_record(folder.training, ending(folder, record, n_steps=1))
    return TrainConfig.of(run, "config.yaml")


def record() -> dict[str, Any]:
    return json.loads(Path(f"runs/run/variants/any@{SITE}/probing.json").read_text(encoding="utf-8"))


def test_texts_become_rows_and_rows_are_probed_without_the_model(
    config: TrainConfig, package: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO, "strata_sae"):
        stages.label_texts(config)
        assert "2_one class: left out: 2_one class.csv.zst: has the classes yes" in caplog.text
        assert "3_broken: left out:" in caplog.text
        assert "cannot be read" in caplog.text
        monkeypatch.setattr(labelled_rows, "load", lambda *args: pytest.fail("the model was loaded"))
        stages.label_texts(config)  # the tasks that cannot be made are said again, the one that is there is not made
        stages.probe_saes(config)
    (task,) = record()["probed"]
    assert (task["name"], task["n_negative"], task["n_positive"]) == ("1_king", 120, 120)
    assert {left["name"] for left in record()["left_out"]} == {"2_one class", "3_broken"}
    caplog.clear()
    with caplog.at_level(logging.INFO, "strata_sae"):
        stages.probe_saes(config)
    assert "probed already" in caplog.text


def test_without_the_package_the_rest_goes_on(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(probing_texts, "_PACKAGE", "no_such_package_of_texts")
    stages.label_texts(config)
    assert "pip install --no-deps sae-probes==0.4.2" in caplog.text
    stages.probe_saes(config)
    assert len(record()["left_out"]) == 3


def test_a_model_that_is_not_there_is_said(config: TrainConfig, package: Path, caplog: pytest.LogCaptureFixture):
    (Path("model") / "model.safetensors").unlink()
    stages.label_texts(config)
    assert "no rows of labelled texts are made: model.path" in caplog.text
    with pytest.raises(ConfigError, match="model"):
        make_probing_rows(config)


def test_tasks_and_texts_of_the_package(package: Path):
    assert task_names(package) == TASKS
    found = task_texts(package, "1_king", 100, 0)
    assert found.classes == ["no", "yes"]
    assert (len(found.texts), int(found.target.sum())) == (100, 50)
    assert all(
        ("yes" if int(text.rsplit(" ", 1)[1]) % 2 else "no") == found.classes[y]
        for text, y in zip(*found[:2], strict=True)
    )
    assert task_texts(package, "1_king", 100, 0).texts == found.texts
    assert task_texts(package, "1_king", 100, 1).texts != found.texts
    assert len(task_texts(package, "1_king", 1000, 0).texts) == 250
    for wrong in ("4_number", "../1_king", "5_not there"):
        with pytest.raises(ConfigError, match="is none of the package's 3 tasks"):
            task_texts(package, wrong, 100, 0)


@pytest.mark.demo
def test_the_default_tasks_are_in_the_package():
    folder = data_folder()
    assert len(task_names(folder)) == 113
    for task in ProbingSettings().tasks:
        assert len(task_texts(folder, task, 600, 0).texts) == 600
