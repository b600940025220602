import hashlib
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs.records import SAERecord
from strata_sae.pipeline.trainer.checkpoint import Checkpoint, Prefix, newest, prefix_of, save
from support.made_up_records import sae_record
from support.sealing import edit

RECORD = sae_record("topk", "site", {"architecture": "topk", "d_sae": 4}, d_out=2, store_id="s", n_steps=9)
EMPTY = hashlib.sha256(b"").hexdigest()


def checkpoint(step: int, size: int = 0) -> Checkpoint:
    tensors = {"a": torch.full((4,), float(step)), "clock": torch.tensor([step], dtype=torch.int64)}
    return Checkpoint(step=step, tensors=tensors, curves=Prefix(size, EMPTY))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for step in (500, 1000, 1500):
        save(tmp_path / "checkpoints", checkpoint(step), RECORD)
    return tmp_path / "checkpoints"


def load(folder: Path, record: SAERecord = RECORD) -> Checkpoint | None:
    return newest(folder, record, folder.parent / "curves.jsonl")


def test_two_are_kept_and_the_newest_wins(folder: Path):
    assert sorted(path.name for path in folder.iterdir()) == ["step_00001000", "step_00001500"]
    found = load(folder)
    assert found is not None
    assert found.step == 1500
    assert torch.equal(found.tensors["a"], torch.full((4,), 1500.0))
    assert found.tensors["clock"].dtype == torch.int64


def test_none_where_there_is_none(tmp_path: Path):
    assert load(tmp_path / "checkpoints") is None


def flip(path: Path, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte % len(data)] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["first", "middle", "last", "cut", "empty", "gone"])
def test_damaged_newest_falls_back_with_a_warning(folder: Path, caplog, name: str, damage: str):
    path = folder / "step_00001500" / name
    size = path.stat().st_size
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: size // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "gone":
        path.unlink()
    else:
        flip(path, {"first": 0, "middle": size // 2, "last": size - 2}[damage])
    with caplog.at_level(logging.WARNING):
        found = load(folder)
    assert found is not None
    assert found.step == 1000
    assert "step_00001500" in caplog.text
    assert "falling back" in caplog.text
    save(folder, checkpoint(1500), RECORD)  # the damaged one is replaced
    assert load(folder).step == 1500


def test_all_damaged_is_an_error_never_step_0(folder: Path):
    for path in folder.iterdir():
        flip(path / "state.safetensors", 50)
    with pytest.raises(CheckpointError, match=r"every checkpoint is damaged .*delete"):
        load(folder)


def test_curves_shorter_than_a_checkpoint_knows_is_damage(folder: Path):
    (folder.parent / "curves.jsonl").write_bytes(b"x" * 10)
    save(folder, checkpoint(2000, size=20), RECORD)
    assert load(folder).step == 1500


def test_curves_changed_before_a_checkpoint_are_refused_by_name(folder: Path, caplog):
    """A digit of the log, its size unchanged: the size alone says nothing."""
    curves = folder.parent / "curves.jsonl"
    curves.write_bytes(b'{"loss": 0.3}')
    save(folder, replace(checkpoint(2000), curves=prefix_of(curves, 13)), RECORD)
    assert load(folder).step == 2000
    curves.write_bytes(b'{"loss": 0.9}')
    with caplog.at_level(logging.WARNING):
        assert load(folder).step == 1500  # written before that line
    assert "curves.jsonl: sha256" in caplog.text
    shutil.rmtree(folder / "step_00001500")
    with pytest.raises(CheckpointError, match=r"every checkpoint is damaged .*curves\.jsonl: sha256"):
        load(folder)


def test_a_checkpoint_of_an_earlier_version_does_not_check_its_curves(folder: Path, caplog):
    curves = folder.parent / "curves.jsonl"
    curves.write_bytes(b'{"loss": 0.3}')
    save(folder, replace(checkpoint(2000), curves=prefix_of(curves, 13)), RECORD)
    edit(folder / "step_00002000" / "state.json", lambda state: state.update(curves_sha256=None))
    curves.write_bytes(b'{"loss": 0.9}')
    with caplog.at_level(logging.INFO):
        assert load(folder).step == 2000
    assert "written before records carried a hash" in caplog.text


def test_two_checkpoints_exchanged_are_damage(folder: Path):
    one, two = folder / "step_00001000", folder / "step_00001500"
    one.rename(folder / "between")
    two.rename(one)
    (folder / "between").rename(two)
    with pytest.raises(CheckpointError, match="it is the checkpoint of step 1000"):
        load(folder)


def test_leftovers_of_a_kill_are_removed(folder: Path):
    (folder / ".staged-step_00002000-x").mkdir()
    (folder / ".staged-step_00002000-x" / "state.safetensors").write_bytes(b"half")
    assert load(folder).step == 1500
    assert not list(folder.glob(".staged-*"))


def test_saving_a_step_again_is_fine(folder: Path):
    save(folder, checkpoint(1500), RECORD)
    assert load(folder).step == 1500


def test_kill_between_files_and_rename_leaves_the_older_one(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def killed(*paths: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", killed)
        with pytest.raises(KeyboardInterrupt):
            save(folder, checkpoint(2000), RECORD)
    assert load(folder).step == 1500


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"store_id": "t"}, 'store_id: was "s", is "t"'),
        ({"training": RECORD.training.model_copy(update={"n_steps": 10})}, "training.n_steps: was 9, is 10"),
    ],
)
def test_another_config_or_store_is_refused_by_name(folder: Path, change: dict, named: str):
    with pytest.raises(CheckpointError, match=named):
        load(folder, RECORD.model_copy(update=change))


def test_a_foreign_name_is_ignored(folder: Path):
    shutil.copytree(folder / "step_00001500", folder / "step_best")
    assert load(folder).step == 1500


def test_a_tensor_of_an_earlier_version_has_todays_name(folder: Path):
    clock = torch.arange(3)
    old = replace(checkpoint(2000), tensors={"dead_clock.tokens_since_fired": clock, "threshold.mean": torch.zeros(1)})
    save(folder, old, RECORD)
    found = load(folder)
    assert found is not None
    assert found.tensors.keys() == {"dead_clock.rows_since_active", "threshold.mean"}
    assert torch.equal(found.tensors["dead_clock.rows_since_active"], clock)
