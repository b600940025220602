"""A stop changes nothing; what cannot be continued is refused by name."""

import logging
from typing import Any

import pytest
import torch

from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.trainer.train import train
from strata_sae.pipeline.trainer.trainee import Trainee
from support.small_run import ALL, SITE, TOPK, store_for_training
from support.trained_run import RUN, Stop, folder_of, hashes, train_until


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("save", range(1, 19, 2))
def test_resume_is_bit_identical_at_every_checkpoint(make_config, uninterrupted, monkeypatch, save, before):
    """18 saves: 6 steps of 3 variants, so the variants are at different steps when they resume."""
    train_until(make_config(ALL), monkeypatch, save, before=before)
    train(make_config(ALL), show_progress=False)
    assert hashes() == uninterrupted


def test_resume_after_a_stop_in_every_single_step(make_config, uninterrupted, monkeypatch):
    """Each attempt dies after 11 updates of the group, wherever that is; checkpoints alone carry it on."""
    real = Trainee.update
    left = 0

    def dying(self: Trainee, *rows: torch.Tensor | None, monitored: bool) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stop
        return real(self, *rows, monitored=monitored)

    monkeypatch.setattr(Trainee, "update", dying)
    for attempt in range(100):
        left = 31 + attempt % 7
        try:
            train(make_config(ALL), show_progress=False)
        except Stop:
            continue
        break
    assert attempt > 4
    assert hashes() == uninterrupted


@pytest.mark.parametrize(
    ("forgotten", "variant", "seen_in"),
    [
        ("adam.mean", "topk", "weights"),
        ("adam.square", "topk", "weights"),
        ("dead_clock", "topk", "weights"),
        ("objective", "batch", "weights"),
        ("threshold", "batch", "state"),
    ],
)
def test_control_forgetting_any_part_of_the_state_is_seen(
    make_config, uninterrupted, monkeypatch, forgotten, variant, seen_in
):
    train_until(make_config(ALL), monkeypatch, 12, before=False)
    real = Trainee.load_state

    def forgetful(self: Trainee, tensors: dict[str, torch.Tensor], *rest: Any) -> None:
        real(self, {n: torch.zeros_like(t) if n.startswith(forgotten) else t for n, t in tensors.items()}, *rest)

    monkeypatch.setattr(Trainee, "load_state", forgetful)
    train(make_config(ALL), show_progress=False)
    assert hashes()[variant][seen_in] != uninterrupted[variant][seen_in]


def test_finished_at_the_last_checkpoint_needs_no_update(make_config, uninterrupted, monkeypatch):
    """Killed between the last checkpoint and `done`: the next call only finishes."""
    train_until(make_config(ALL), monkeypatch, 18, before=False)

    def no_update(self: Trainee, *rows: torch.Tensor | None, monitored: bool) -> None:
        raise AssertionError("an update was made")

    monkeypatch.setattr(Trainee, "update", no_update)
    train(make_config(ALL), show_progress=False)
    assert hashes() == uninterrupted
    before = {path: path.stat().st_mtime_ns for path in (RUN / "variants").rglob("*")}
    train(make_config(ALL), show_progress=False)
    assert {path: path.stat().st_mtime_ns for path in (RUN / "variants").rglob("*")} == before


@pytest.mark.parametrize(
    ("training", "named"),
    [
        ({"learning_rate": 1e-4}, "learning_rate: was 0.003, is 0.0001"),
        ({"n_steps": 61}, "training.n_steps: was 60, is 61"),
        ({"log_every_steps": 6}, "training.log_every_steps: was 5, is 6"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_changed_config_is_refused_by_name(make_config, monkeypatch, training, named, finished):
    if finished:
        train(make_config({"topk": TOPK}), show_progress=False)
    else:
        train_until(make_config({"topk": TOPK}), monkeypatch, 2, before=False)
    with pytest.raises(CheckpointError, match=f"{named}.*another name.*delete"):
        train(make_config({"topk": TOPK}, **training), show_progress=False)


def test_checkpoint_interval_may_change(make_config, uninterrupted, monkeypatch):
    train_until(make_config(ALL), monkeypatch, 4, before=False)
    train(make_config(ALL, checkpoint_every_steps=7), show_progress=False)
    assert hashes() == uninterrupted


def test_another_store_of_the_same_name_is_refused(make_config, monkeypatch, tmp_path):
    mine = store_for_training(tmp_path / "mine", n_rows=2000)
    train_until(make_config({"topk": TOPK}, store=mine), monkeypatch, 2, before=False)
    mine.rename(tmp_path / "old")
    store_for_training(mine, n_rows=2100)
    with pytest.raises(CheckpointError, match="store_id: was"):
        train(make_config({"topk": TOPK}, store=mine), show_progress=False)


def test_damaged_newest_checkpoint_resumes_from_the_older_one(make_config, uninterrupted, monkeypatch, caplog):
    train_until(make_config(ALL), monkeypatch, 9, before=False)
    newest = folder_of("topk").checkpoints / "step_00000030" / "state.safetensors"
    data = bytearray(newest.read_bytes())
    data[-9] ^= 1
    newest.write_bytes(data)
    with caplog.at_level(logging.INFO):
        train(make_config(ALL), show_progress=False)
    assert "falling back" in caplog.text
    assert f"topk@{SITE}: goes on from step 20" in caplog.text
    assert hashes() == uninterrupted


def test_every_checkpoint_damaged_is_an_error(make_config, monkeypatch):
    train_until(make_config({"topk": TOPK}), monkeypatch, 3, before=False)
    for state in folder_of("topk").checkpoints.glob("*/state.json"):
        state.write_text("{}")
    with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        train(make_config({"topk": TOPK}), show_progress=False)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "dtype"])
def test_a_checkpoint_of_other_tensors_is_refused(make_config, monkeypatch, change):
    train_until(make_config({"topk": TOPK}), monkeypatch, 2, before=False)
    real = Trainee.load_state

    def load_state(self: Trainee, tensors: dict[str, torch.Tensor], *rest: Any) -> None:
        if change == "missing":
            del tensors["adam.mean.b_enc"]
        elif change == "unknown":
            tensors["adam.mean.b_new"] = torch.zeros(1)
        else:
            old = tensors["adam.mean.b_enc"]
            tensors["adam.mean.b_enc"] = old[:-1] if change == "shape" else old.double()
        real(self, tensors, *rest)

    monkeypatch.setattr(Trainee, "load_state", load_state)
    with pytest.raises(CheckpointError, match=r"b_enc|b_new"):
        train(make_config({"topk": TOPK}), show_progress=False)


def test_folder_without_its_config_is_refused(make_config):
    train(make_config({"topk": TOPK}), show_progress=False)
    folder_of("topk").config.unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: missing"):
        train(make_config({"topk": TOPK}), show_progress=False)


def test_unknown_site_is_refused(make_config, store):
    config = make_config({"topk": TOPK})
    sites = config.store.model_copy(update={"sites": ["nowhere"]})
    wrong = config.model_copy(
        update={"store": sites, "training": config.training.model_copy(update={"sites": ["nowhere"]})}
    )
    with pytest.raises(ConfigError, match="'nowhere' is not in the store"):
        train(wrong, show_progress=False)


def change_a_digit(line: int) -> None:
    """In one line of the curves, whose size stays."""
    path = folder_of("topk").curves
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    place = lines[line].index("0.")
    digit = str((int(lines[line][place + 2]) + 1) % 10)
    lines[line] = lines[line][: place + 2] + digit + lines[line][place + 3 :]
    path.write_text("".join(lines), encoding="utf-8")


def test_curves_changed_before_a_resume_are_refused_by_name(make_config, monkeypatch):
    train_until(make_config({"topk": TOPK}), monkeypatch, 3, before=False)
    change_a_digit(0)
    with pytest.raises(CheckpointError, match=r"curves\.jsonl: sha256 \w+ is not what step_00000030 was written with"):
        train(make_config({"topk": TOPK}), show_progress=False)


def test_curves_changed_behind_an_older_checkpoint_are_written_again(make_config, uninterrupted, monkeypatch, caplog):
    train_until(make_config({"topk": TOPK}), monkeypatch, 3, before=False)
    change_a_digit(-1)  # of step 30; the checkpoint of step 20 does not know that line
    train(make_config({"topk": TOPK}), show_progress=False)
    assert "falling back to an older checkpoint" in caplog.text
    assert hashes()["topk"] == uninterrupted["topk"]
