"""How many passes, who is in them, and what is said of it; none of it changes a bit."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from strata_sae.pipeline.available import free_bytes
from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config import dump
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.kernels import selection
from strata_sae.pipeline.runs.record_files import read_yaml
from strata_sae.pipeline.trainer import session
from strata_sae.pipeline.trainer.session import Session
from strata_sae.pipeline.trainer.train import describe_training, train
from strata_sae.pipeline.trainer.trainee import Trainee
from support.small_run import ALL, RELU, SITE, TOPK
from support.trained_run import RUN, folder_of, hashes

ONE_VARIANT_BYTES = 200_000


def passes(config) -> list[list[str]]:
    """Variants of each pass, from what the dry run says."""
    lines = [line for line in describe_training(config).splitlines() if "read once for" in line]
    return [line.partition("read once for ")[2].split(", ") for line in lines]


def test_what_does_not_fit_together_is_trained_one_after_the_other(make_config, uninterrupted, caplog):
    config = make_config(ALL, memory_bytes=ONE_VARIANT_BYTES)
    assert passes(config) == [[name] for name in ALL]
    with caplog.at_level(logging.INFO):
        train(config, show_progress=False)
    assert f"{SITE}: 3 passes over the store, since all 3 variants need about" in caplog.text
    assert hashes() == uninterrupted


@pytest.mark.parametrize("budget", [None, 10**9])
def test_one_pass_where_there_is_room(make_config, budget):
    assert passes(make_config(ALL, memory_bytes=budget)) == [list(ALL)]


def test_another_budget_goes_on_where_the_first_stopped(make_config, uninterrupted):
    train(make_config(ALL, memory_bytes=1), show_progress=False, only=["topk"])
    train(make_config(ALL), show_progress=False)
    assert hashes() == uninterrupted


def test_a_variant_too_large_for_the_budget_is_tried_with_a_warning(make_config, caplog):
    train(make_config({"topk": TOPK}, memory_bytes=1, n_steps=5), show_progress=False)
    assert "more than the 0.00 GB that it may take (training.memory_bytes); trying" in caplog.text


def test_free_memory_is_less_than_there_is():
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < free_bytes(torch.device("cpu")) < total


@pytest.mark.parametrize(("only", "trained"), [(["topk"], {"topk"}), (["t*", "relu"], {"topk", "relu"})])
def test_only_some_are_trained_and_the_rest_stays_in_the_config(make_config, uninterrupted, only, trained):
    train(make_config(ALL), show_progress=False, only=only)
    assert hashes() == {name: uninterrupted[name] for name in trained}
    assert read_yaml(RUN / "config.yaml") == (dump(make_config(ALL)), True)
    train(make_config(ALL), show_progress=False)
    assert hashes() == uninterrupted


def test_only_a_variant_that_there_is(make_config):
    with pytest.raises(
        ConfigError, match=r"--only tpk: no such variant; did you mean 'topk'\?; there are: topk, batch"
    ):
        train(make_config(ALL), only=["tpk"])


def test_a_dry_run_says_what_is_left_and_writes_nothing(make_config):
    said = describe_training(make_config(ALL))
    assert said.startswith("3 of 3 SAEs are left to train\n")
    assert f"{SITE}: batches of 64 rows, seed 0, read once for topk, batch, relu" in said
    assert " GB of disk for checkpoints and weights" in said
    assert not RUN.exists()
    train(make_config(ALL, n_steps=5), show_progress=False, only=["relu"])
    assert describe_training(make_config(ALL, n_steps=5)).startswith("2 of 3 SAEs")


def test_the_command_line_trains_some_adds_others_and_tells_before(make_config):
    Path("run.yaml").write_text(dump(make_config(ALL, n_steps=5)))
    more = make_config({"added": {**RELU, "seed": 3}}, n_steps=5)
    Path("more.yaml").write_text(dump(more))

    def strata(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["--quiet", "train", "run.yaml", *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    strata("--only", "topk")
    assert set(hashes()) == {"topk"}
    before = strata("--add", "more.yaml", "--dry-run")
    assert before.startswith("3 of 4 SAEs are left to train\n")
    assert "seed 3, read once for added" in before
    strata("--add", "more.yaml", "--only", "added")
    assert set(hashes()) == {"topk", "added"}
    train(more.model_copy(update={"name": "alone"}), show_progress=False)
    assert hashes(Path("runs/alone"))["added"] == hashes()["added"]


def test_the_table_tells_of_every_variant(make_config, caplog):
    wild = {**TOPK, "training": {"learning_rate": 1e30, "clip_norm": None}}
    train(make_config(ALL), show_progress=False, only=["relu"])
    with caplog.at_level(logging.INFO, logger="strata_sae"):
        train(make_config({**ALL, "wild": wild}), show_progress=False)
    said = [record.message for record in caplog.records]
    heading = next(number for number, line in enumerate(said) if line.startswith("variant "))
    assert said[heading].split() == ["variant", "site", "steps", "loss", "r2", "l0", "dead", "rows/s"]
    rows = {line.split()[0]: line.split() for line in said[heading + 1 :]}
    assert list(rows) == [*ALL, "wild"]
    last = json.loads(folder_of("topk").curves.read_text().splitlines()[-1])
    assert rows["topk"][1:6] == [SITE, "60", f"{last['loss']:.4g}", f"{last['batch_r2']:.4f}", "4.0"]
    assert float(rows["topk"][7].replace(",", "")) > 0
    assert rows["relu"][7] == "-"  # trained before, so there is no speed to tell
    assert rows["wild"][8] == "diverged:"


@pytest.mark.parametrize(("n_steps", "expected"), [(5, 64 / 0.5), (1, None)])
def test_the_first_update_has_no_part_in_the_speed(make_config, monkeypatch, n_steps, expected):
    """By a clock that 100 seconds pass on in the first update, and half a second in each of the others."""
    clock, found, update, speed = [0.0], [], Trainee.update, Session.rows_per_second

    def slow(self, *batch, **more):
        clock[0] += 0.5 if self.step else 100.0
        return update(self, *batch, **more)

    monkeypatch.setattr(Trainee, "update", slow)
    monkeypatch.setattr(session, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(Session, "rows_per_second", lambda self: found.append(speed(self)) or found[-1])
    train(make_config({"topk": TOPK}, n_steps=n_steps), show_progress=False)
    assert found == [expected]


def test_the_break_even_density_is_the_configs_and_dry_run_measures_it(make_config, monkeypatch):
    seen = []
    real = selection.is_dense
    monkeypatch.setattr(selection, "is_dense", lambda *given: seen.append(given[2]) or real(*given))
    config = make_config({"topk": TOPK}, break_even_density=0.01, n_steps=6)
    assert "full matrices are faster than sparse codes from a density of" in describe_training(config)
    assert not seen, "control: measuring chooses nothing"
    train(config, show_progress=False)
    assert set(seen) == {0.01}
    changed = make_config({"topk": TOPK}, break_even_density=0.5, n_steps=6)
    with pytest.raises(CheckpointError, match="break_even_density"):
        train(changed, show_progress=False)
