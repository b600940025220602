"""Room on the disk is looked for before training starts, and what lies there already is not asked for again."""

import re
import shutil
from collections import namedtuple

import pytest

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.trainer.train import describe_training, train
from support.small_run import ALL
from support.trained_run import hashes, train_until

Usage = namedtuple("Usage", "total used free")


def disk_of(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free))


def needed_bytes(make_config, monkeypatch) -> int:
    disk_of(0, monkeypatch)
    with pytest.raises(CheckpointError) as refused:
        train(make_config(ALL), show_progress=False)
    return int(re.search(r"needs ([\d,]+) more bytes", str(refused.value))[1].replace(",", ""))


def test_a_disk_without_room_is_refused_before_anything_is_trained(make_config, monkeypatch, uninterrupted):
    needed = needed_bytes(make_config, monkeypatch)
    assert f"{needed / 1e9:.3g} GB of disk for checkpoints and weights" in describe_training(make_config(ALL))
    disk_of(needed - 1, monkeypatch)
    with pytest.raises(
        CheckpointError, match=r"runs/run: training needs .* free for checkpoints and weights; free some"
    ):
        train(make_config(ALL), show_progress=False)
    assert hashes() == {}
    disk_of(needed, monkeypatch)
    train(make_config(ALL), show_progress=False)
    assert hashes() == uninterrupted


def test_a_run_that_goes_on_needs_no_room_for_the_checkpoints_it_has(make_config, monkeypatch, uninterrupted):
    needed = needed_bytes(make_config, monkeypatch)
    disk_of(needed, monkeypatch)
    train_until(make_config(ALL), monkeypatch, 9, before=False)
    disk_of(needed // 2, monkeypatch)
    train(make_config(ALL), show_progress=False)
    assert hashes() == uninterrupted
