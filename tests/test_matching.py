"""Matched L0 on a small real store: trials, rounds, kills, targets out of reach, damaged and foreign records."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from strata_sae.pipeline import face
from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.commands.matching import train_matched
from strata_sae.pipeline.commands.searches import matchings
from strata_sae.pipeline.config import RunConfig, dump
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.evaluation.evaluate import evaluate, scores_of
from strata_sae.pipeline.runs.chain import check_match, read_config, read_match, read_training
from strata_sae.pipeline.runs.deleting import deletable_variants
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.trainer import train as trainer
from strata_sae.stores.files.hashing import file_sha256
from support.one_thread import one_thread  # noqa: F401
from support.sealing import edit
from support.small_run import BATCH_TOPK, RELU, SITE, TOPK, run_data, store_for_training

ROOT = Path(__file__).parents[1]
RUN = Path("runs/run")
QUICK = {"n_steps": 20, "checkpoint_every_steps": 10, "calibration_rows": 128, "window_rows": 512}
MATCHED = {"relu": {**RELU, "match": {"l0": 12.4}}, "batch": {**BATCH_TOPK, "match": {"l0": 6.0, "tolerance": 0.1}}}
VARIANTS = {**MATCHED, "topk": TOPK}
HOPELESS = {**RELU, "match": {"l0": 8.0, "tolerance": 1e-6}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_for_training(tmp_path_factory.mktemp("stores") / "small", n_rows=1500)


def config_of(
    store: Path, variants: dict[str, Any], evaluation: dict[str, Any] | None = None, **training: Any
) -> TrainConfig:
    data = {
        **run_data(store, variants, **{**QUICK, **training}),
        "evaluation": {"batch_size": 64, **(evaluation or {})},
    }
    return TrainConfig.of(RunConfig.model_validate(data), "c.yaml")


class Done(NamedTuple):
    """A run in which every L0 was matched."""

    folder: Path
    config: TrainConfig


@pytest.fixture(scope="module")
def done(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    made = Done(tmp_path_factory.mktemp("done"), config_of(store, VARIANTS))
    with contextlib.chdir(made.folder):
        assert train_matched(made.config, show_progress=False) == []
    return made


@pytest.fixture
def here(done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Done:
    """A copy to damage, which is the working folder."""
    shutil.copytree(done.folder / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return done


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What each pass over the store trains, from now on."""
    passes: list[list[str]] = []
    real = trainer.run_pass

    def counted(pass_: Any, *arguments: Any, **named: Any) -> dict[str, float]:
        passes.append([job.label for job in pass_.jobs])
        return real(pass_, *arguments, **named)

    monkeypatch.setattr(trainer, "run_pass", counted)
    return passes


def folder_of(name: str, run: Path = RUN) -> VariantFolder:
    return RunFolder(run).variant(f"{name}@{SITE}")


def record_of(name: str, run: Path = RUN) -> Any:
    return read_match(folder_of(name, run)).record


def results(run: Path = RUN) -> dict[str, str]:
    """Every file that training and matching leave, but for what says when it ran, and its hash."""
    names = ("config.json", "weights.safetensors", "curves.jsonl", "training.json", "match.json")
    return {str(p.relative_to(run)): file_sha256(p) for p in sorted(run.rglob("*")) if p.name in names}


def times(run: Path = RUN) -> dict[str, int]:
    return {name: (run / name).stat().st_mtime_ns for name in results(run)}


def test_each_sae_has_the_wanted_l0_and_the_trials_that_led_there(here: Done) -> None:
    evaluate(here.config)
    scores = scores_of(RunFolder(RUN))
    for name, match in ((name, variant["match"]) for name, variant in MATCHED.items()):
        record, folder = record_of(name), folder_of(name)
        assert record.outcome == "matched"
        assert record.taken.l0 == scores[folder.name]["l0"], "the L0 of the table, to the last bit"
        assert abs(record.taken.l0 / match["l0"] - 1) <= match.get("tolerance", 0.02)
        for number, trial in enumerate(record.trials, start=1):
            config = read_config(folder.trial(number)).record
            assert (config.name, config.fingerprint) == (folder.name, trial.sae)
            assert read_training(folder.trial(number), config).record.sha256.weights == trial.weights_sha256
        assert folder.trial(len(record.trials)).path.is_dir()
        assert not folder.trial(len(record.trials) + 1).path.exists()
        config = read_config(folder).record
        check_match(folder, record, config, read_training(folder, config).record)
        with_knob = {"relu": config.objective["l1"] if name == "relu" else None, "batch": config.sae}[name]
        assert with_knob is not None
        assert with_knob.further()[record.knob.rpartition(".")[2]] == record.taken.knob
    assert len(record_of("relu").trials) > 1, "the test needs a search"
    metrics = json.loads(folder_of("relu").metrics.read_text())
    assert (metrics["n_rows"], metrics["n_documents"]) == (record_of("relu").n_rows, record_of("relu").n_documents)


def test_the_found_knob_trained_by_itself_gives_equal_bits(
    store: Path, done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = {name: record_of(name, done.folder / RUN).taken.knob for name in MATCHED}
    relu = {**RELU, "objective": {"reconstruction": {}, "l1": {"weight": found["relu"]}}}
    batch = {**BATCH_TOPK, "sae": {**BATCH_TOPK["sae"], "k": int(found["batch"])}}
    trainer.train(config_of(store, {"relu": relu, "batch": batch}), show_progress=False)
    for name in MATCHED:
        for file in ("config.json", "weights.safetensors", "curves.jsonl", "training.json"):
            mine, theirs = folder_of(name).path / file, folder_of(name, done.folder / RUN).path / file
            assert mine.read_bytes() == theirs.read_bytes(), (name, file)
    other = {**relu, "objective": {"reconstruction": {}, "l1": {"weight": found["relu"] * 1.00001}}}
    trainer.train(config_of(store, {"other": other}), show_progress=False)
    assert file_sha256(folder_of("other").weights) != file_sha256(folder_of("relu").weights), "the control"


def test_a_second_run_trains_and_writes_nothing(here: Done, trained: list[list[str]]) -> None:
    before = times()
    assert train_matched(here.config, show_progress=False) == []
    assert trained == []
    assert times() == before


def test_a_round_is_one_pass_for_all(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[list[str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train_matched(config_of(store, VARIANTS), show_progress=False) == []
    assert trained[0] == ["relu (trial 1)", "batch (trial 1)", "topk"]
    n_trials = {name: len(record_of(name).trials) for name in MATCHED}
    assert len(trained) == max(n_trials.values())
    assert [label for of_pass in trained for label in of_pass if label != "topk"] == [
        f"{name} (trial {number})"
        for number in range(1, len(trained) + 1)
        for name in MATCHED
        if number <= n_trials[name]
    ]


class Died(BaseException):
    """As a kill: nothing catches it."""


def test_a_death_at_any_write_loses_nothing(
    store: Path, done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each life ends a few published files later than the one before, until one comes through."""
    monkeypatch.chdir(tmp_path)
    config, real, deaths = config_of(store, VARIANTS), os.rename, 0
    while True:
        left = 6 + 5 * deaths  # so many files are published in each life anew that none would get further

        def rename(*arguments: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Died
            real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", rename)
            try:
                assert train_matched(config, show_progress=False) == []
            except Died:
                deaths += 1
                continue
        break
    assert deaths > 3
    assert results() == results(done.folder / RUN)


def test_a_killed_process_ends_with_the_same_files(store: Path, done: Done, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(dump(done.config))
    program = """
import os, signal, sys
from pathlib import Path
from strata_sae.pipeline.commands.matching import train_matched
from strata_sae.pipeline.config import load
from strata_sae.pipeline.config.run import TrainConfig
left, real = int(sys.argv[1]), os.rename
def rename(*arguments):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments)
os.rename = rename
assert train_matched(TrainConfig.of(load(Path("c.yaml")), "c.yaml"), show_progress=False) == []
"""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    for dies_at, code in ((14, -signal.SIGKILL), (0, 0)):
        command = [sys.executable, "-c", program, str(dies_at)]
        life = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
        assert life.returncode == code, life.stderr
    assert results(tmp_path / RUN) == results(done.folder / RUN)


def test_a_search_that_begins_where_an_earlier_one_ended_takes_one_training(
    store: Path, done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = record_of("relu", done.folder / RUN).taken
    relu = {**RELU, "match": {"l0": 12.4, "first": {SITE: found.knob}}}
    assert train_matched(config_of(store, {"relu": relu}), show_progress=False) == []
    assert [trial.sae for trial in record_of("relu").trials] == [found.sae]


@pytest.mark.parametrize("gone", ["weights.safetensors", "training.json", "config.json"])
def test_a_death_while_the_accepted_trial_is_copied(here: Done, trained: list[list[str]], gone: str) -> None:
    """What is missing then is copied again, and nothing is trained."""
    whole = results()
    folder = folder_of("relu")
    names = ["config.json", "weights.safetensors", "curves.jsonl", "training.json"]
    for name in names[names.index(gone) :]:
        (folder.path / name).unlink(missing_ok=True)
    if gone == "weights.safetensors":
        (folder.path / "training.json").unlink(missing_ok=True)
    assert train_matched(here.config, show_progress=False) == []
    assert (results(), trained) == (whole, [])


def test_a_target_out_of_reach_fails_with_its_trail_and_all_others_are_finished(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[list[str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_of(store, {"hopeless": HOPELESS, "topk": TOPK, "batch": MATCHED["batch"]})
    with pytest.raises(ConfigError) as error:
        stages.run_stages(config, None)
    record = record_of("hopeless")
    assert (record.outcome, record.accepted, len(record.trials)) == ("failed", None, 6)
    text = str(error.value)
    assert text.startswith(f"variants.hopeless.match: L0 8 within 1e-06 at {SITE}: not reached in 6 trainings (")
    assert all(f"{trial.knob:g} gave {trial.l0:.4g}" in text for trial in record.trials)
    assert "\n" not in text
    assert {folder.variant for folder in RunFolder(RUN).trained()} == {"topk", "batch"}
    assert {name.partition("@")[0] for name in scores_of(RunFolder(RUN))} == {"topk", "batch"}, "and scored"
    assert (RUN / "report.html").is_file()
    n_passes = len(trained)
    with pytest.raises(ConfigError, match="6 trainings"):
        stages.refuse_unmatched(stages.train_saes(config))
    assert len(trained) == n_passes, "what failed is not trained again"


def test_where_no_k_fits_the_nearest_is_taken_and_marked(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = {"sae": {"architecture": "topk", "d_sae": 64, "k": 4}, "objective": {"reconstruction": {}}}
    variants = {"topk": {**small, "match": {"l0": 1.3}}, "plain": {**small, "match": {"l0": 2.0}}}
    assert train_matched(config_of(store, variants), show_progress=False) == []
    record = record_of("topk")
    assert (record.outcome, record.taken.knob, len(record.trials)) == ("nearest", 1.0, 2)
    assert folder_of("topk").training.is_file()
    assert (record_of("plain").outcome, len(record_of("plain").trials)) == ("matched", 1), "an exact k needs no search"


def test_a_training_that_diverges_fails(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wild = {**RELU, "match": {"l0": 6.0}, "training": {"learning_rate": 1e30, "clip_norm": None}}
    (problem,) = train_matched(config_of(store, {"wild": wild}), show_progress=False)
    assert "training 1 diverged (objective.l1.weight: 0.05 gave no L0)" in problem


def damage_digit(path: Path) -> None:
    text = path.read_text()
    place = text.index('"l0":') + 6
    path.write_text(text[:place] + ("9" if text[place] != "9" else "8") + text[place + 1 :])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damage_digit, "damaged or edited; delete it and run train"),
        (lambda path: path.write_text("{"), "delete it and run train"),
        (lambda path: edit(path, lambda data: data | {"variant": "batch"}), "the search of 'batch@"),
        (lambda path: edit(path, lambda data: data | {"accepted": 99}), "accepted is 99"),
    ],
)
def test_a_damaged_record_is_refused_and_measured_again_where_it_is_deleted(
    here: Done, trained: list[list[str]], damage: Callable[[Path], Any], says: str
) -> None:
    whole = results()
    damage(folder_of("relu").match)
    with pytest.raises(CheckpointError, match=says) as error:
        train_matched(here.config, show_progress=False)
    assert "match.json" in str(error.value)
    folder_of("relu").match.unlink()
    assert train_matched(here.config, show_progress=False) == []
    assert (results(), trained) == (whole, [])


def test_another_search_or_other_rows_are_refused(store: Path, here: Done) -> None:
    other = {"relu": {**RELU, "match": {"l0": 12.4, "tolerance": 0.1}}}
    with pytest.raises(CheckpointError, match=r"tolerance: the search was for 0.02, and the config's match has 0.1"):
        train_matched(config_of(store, other), show_progress=False)
    with pytest.raises(CheckpointError, match=r"max_rows: L0 was matched on other rows \(None\)"):
        train_matched(config_of(store, VARIANTS, {"max_rows": 64}), show_progress=False)
    with pytest.raises(CheckpointError, match=r"training.n_steps: was 20, is 30"):
        train_matched(config_of(store, VARIANTS, n_steps=30), show_progress=False)


def test_an_sae_that_was_trained_without_match_is_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer.train(config_of(store, {"relu": RELU}), show_progress=False)
    with pytest.raises(CheckpointError, match="was trained without match"):
        train_matched(config_of(store, {"relu": MATCHED["relu"]}), show_progress=False)


def test_a_store_without_heldout_rows_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[list[str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    store = store_for_training(tmp_path / "tiny", n_rows=30)
    with pytest.raises(ConfigError, match="holds no held-out row"):
        train_matched(config_of(store, MATCHED, batch_size=8), show_progress=False)
    assert trained == []


def test_dry_run_says_how_many_trainings_to_expect(
    store: Path, here: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(dump(config_of(store, {**VARIANTS, "new": MATCHED["relu"]})))
    result = CliRunner().invoke(app, ["--quiet", "train", "c.yaml", "--dry-run"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    n_done = len(record_of("relu").trials)
    assert lines[0] == f"relu@{SITE}: L0 12.4: matched after {n_done} trainings"
    new = f"new@{SITE}: L0 12.4 within 0.02: next objective.l1.weight 0.05; 0 trainings are done, 1 to 6 are left"
    assert lines[2] == new
    assert lines[3].startswith("matching L0 takes 1 to 6 more trainings in all, usually 3 of an SAE")
    assert "1 of 4 SAEs are left to train" in lines
    assert not folder_of("new").path.exists()


def test_the_notebook_trains_what_is_matched_and_says_how_to_match(store: Path, here: Done) -> None:
    saes = face.train(here.config, show_progress=False)
    assert saes.keys() == {f"{name}@{SITE}" for name in VARIANTS}
    with pytest.raises(ConfigError, match=r"variants.new.match: the L0 of new@.* is not matched yet"):
        face.train(config_of(store, {"new": MATCHED["relu"]}), show_progress=False)
    trial = face.load(folder_of("relu").trial(1).path)
    assert trial.provenance.variant == "relu"


def test_a_matched_sae_can_be_extended_and_deleted(here: Done) -> None:
    trainer.train(here.config, only=["relu"], extend=5, show_progress=False)
    assert folder_of("relu+5").training.is_file()
    assert deletable_variants(RUN, "relu") == [folder_of("relu").path], "trials are files that a stage writes"
    (folder_of("relu").path / "match" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="notes"):
        deletable_variants(RUN, "relu")


def test_only_the_chosen_variants_are_matched(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert train_matched(config_of(store, VARIANTS), only=["batch"], show_progress=False) == []
    assert {folder.variant for folder in RunFolder(RUN).trained()} == {"batch"}
    assert matchings(config_of(store, {"topk": TOPK})) == []
