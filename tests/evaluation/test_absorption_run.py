"""absorption.json: what is written, skipped, measured anew and refused."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config import dump
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.evaluation.absorption import absorption
from strata_sae.pipeline.evaluation.absorption.absorption import measure_absorption
from strata_sae.pipeline.reading import first_letters
from strata_sae.pipeline.reading.labelled import labelled_root
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.record_files import read_record, with_fingerprint, write_record
from strata_sae.pipeline.runs.records import SAERecord, SitePart
from support.evaluation_folder import SITE
from support.planted_absorption import absorption_run


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store's plan names a model, as one that `extract` wrote does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(first_letters, "check_same_model", lambda labelled, store: None)
    return tmp_path


def path(name: str = "identity") -> Path:
    return Path(f"runs/run/variants/{name}@{SITE}/absorption.json")


def record(name: str = "identity") -> dict[str, Any]:
    return json.loads(path(name).read_text(encoding="utf-8"))


def test_both_kinds_of_probes_are_written_with_their_seeds(here: Path):
    config = absorption_run(here)
    measure_absorption(config)
    for name in ("identity", "topk"):
        found = record(name)
        assert found["probes"].keys() == {"own", "compat"}
        assert len(set(found["labelled_store_ids"])) == 5
        for of_probes in found["probes"].values():
            assert [seed["seed"] for seed in of_probes["seeds"]] == [0, 1, 2, 3, 4]
            assert [seed["labelled_store_id"] for seed in of_probes["seeds"]] == found["labelled_store_ids"]
            values = [seed["fraction"] for seed in of_probes["seeds"]]
            defined = [value for value in values if value is not None]
            spread = of_probes["fraction"]
            assert (spread["n_seeds"], spread["n_undefined"]) == (len(defined), 5 - len(defined))
            assert spread["mean"] == pytest.approx(sum(defined) / len(defined))
    own = record()["probes"]["own"]
    # Axis c of the rows is latent c of the identity: nothing is absorbed.
    assert own["fraction"]["mean"] == 0.0
    assert own["probe_f1"]["mean"] == pytest.approx(1.0)
    assert own["one_latent_f1"]["mean"] == pytest.approx(1.0)
    assert {tuple(letter["latents"]) for seed in own["seeds"] for letter in seed["letters"]} == {(0,), (1,), (2,), (3,)}


def test_what_is_measured_is_skipped_and_what_changed_is_measured_anew(here: Path, caplog: pytest.LogCaptureFixture):
    config = absorption_run(here)
    measure_absorption(config)
    before = path().read_bytes()
    with caplog.at_level(logging.INFO):
        measure_absorption(config)
    assert "identity@blocks.1.hook_resid_post: absorption measured already" in caplog.text
    assert path().read_bytes() == before
    path("topk").unlink()
    measure_absorption(config)
    assert (path("topk").exists(), path().read_bytes()) == (True, before)
    other = TrainConfig.model_validate(
        config.model_dump(exclude_unset=True) | {"evaluation": {"absorption": {"min_letters": 26}}}
    )
    measure_absorption(other)
    own = record()["probes"]["own"]
    assert (own["fraction"]["mean"], own["fraction"]["n_undefined"]) == (None, 5)  # 4 letters of 26
    assert own["seeds"][0]["letters"]


def test_the_same_numbers_twice(here: Path):
    config = absorption_run(here)
    measure_absorption(config)
    before = path("topk").read_bytes()
    path("topk").unlink()
    measure_absorption(config)
    assert path("topk").read_bytes() == before


@pytest.mark.parametrize("seeds", [0, 3])
def test_without_rows_a_line_says_how_to_make_them(here: Path, caplog: pytest.LogCaptureFixture, seeds: int):
    config = absorption_run(here, seeds=seeds)
    measure_absorption(config)
    assert not path().exists()
    (line,) = [entry.message for entry in caplog.records if entry.levelno >= logging.WARNING]
    missing = ", ".join(str(seed) for seed in range(seeds, 5))
    assert f"no rows of the prompts of seed {missing}; evaluate --with-model makes them" in line


@pytest.mark.parametrize(
    ("train_letters", "is_measured"),
    [((24, 25), False), ((0,), False), ((0, 25), True)],
    ids=["others", "one", "control"],
)
def test_words_of_which_no_letter_can_be_told_end_in_one_line(
    here: Path, caplog: pytest.LogCaptureFixture, train_letters: tuple[int, ...], is_measured: bool
):
    config = absorption_run(here, train_letters=train_letters)
    measure_absorption(config)
    warnings = [entry.message for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert path().exists() == is_measured
    assert len(warnings) == (not is_measured)
    assert is_measured or "no letter has a word to train on and one to test on" in warnings[0]


def test_rows_of_another_model_are_left_out(
    here: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def other(labelled: Any, store: Any) -> None:
        raise CheckpointError(f"{labelled.store.path}: model.weights_sha256: is another")

    monkeypatch.setattr(first_letters, "check_same_model", other)
    measure_absorption(absorption_run(here))
    assert not path().exists()
    assert "left out" in caplog.text
    assert "evaluate --with-model makes them" in caplog.text


def test_a_transcoder_and_an_sae_of_documents_are_refused_with_the_reason(here: Path, caplog: pytest.LogCaptureFixture):
    config = absorption_run(here)
    run = RunFolder(config.run_path())
    found = read_record(run.variant(f"topk@{SITE}").config, SAERecord).record
    part = SitePart(site=SITE, width=found.d_out, scale=1.0)
    by_document = {"training": found.training.model_copy(update={"input_scale": "per_document"})}
    for changes, says in (({"reads": [part], "writes": [part]}, "several sites"), (by_document, "by document")):
        changed = with_fingerprint(found.model_copy(update=changes))
        folder = run.variant(f"topk@{SITE}")
        write_record(folder.config, changed)
        ending = json.loads(folder.training.read_text(encoding="utf-8"))
        ending.pop("self_sha256", None)
        folder.training.write_text(json.dumps(ending | {"fingerprint": changed.fingerprint}))
        caplog.clear()
        with caplog.at_level(logging.INFO):
            measure_absorption(config)
        (line,) = [entry.message for entry in caplog.records if "no first-letter absorption" in entry.message]
        assert says in line
        assert not path("topk").exists()
    assert path().exists()  # the others are measured


def test_a_record_of_another_sae_is_refused(here: Path):
    config = absorption_run(here)
    measure_absorption(config)
    shutil.copy(path("topk"), path())
    with pytest.raises(CheckpointError, match=r"absorption\.json: sae: is .*delete it and run evaluate"):
        measure_absorption(config)


def test_a_damaged_record_is_refused(here: Path):
    config = absorption_run(here)
    measure_absorption(config)
    text = path().read_text(encoding="utf-8")
    path().write_text(text.replace('"n_rows": 512', '"n_rows": 511', 1), encoding="utf-8")
    with pytest.raises(CheckpointError, match="self_sha256"):
        measure_absorption(config)


def test_evaluate_measures_it_where_the_config_asks(here: Path):
    config = absorption_run(here)
    Path("c.yaml").write_text(dump(config))
    result = CliRunner().invoke(app, ["--quiet", "evaluate", "c.yaml"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert path().exists()
    assert path().with_name("metrics.json").exists()


def test_nothing_is_measured_that_nobody_asked_for(here: Path, monkeypatch: pytest.MonkeyPatch):
    config = absorption_run(here)
    plain = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"absorption": None})})
    monkeypatch.setattr(absorption, "open_store", None)
    measure_absorption(plain)
    assert not path().exists()
    assert labelled_root(config).exists()
