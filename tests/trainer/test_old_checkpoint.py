"""Checkpoints of an older version: training goes on from them, in today's words, to the same bits.

tests/data/old_unfinished.tar.xz holds what commit e543e8a left of two SAEs of tests/data/old_run.tar.xz when it was
stopped after the checkpoint of step 20 of 40 (`Session._save` raised), where that archive was made, with one thread.
"""

import json
import logging
import shutil
import tarfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config.loading import load
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs import migration
from strata_sae.pipeline.trainer.train import train
from support import old_run
from support.golden import machine

NAMES = ("topk@blocks.1.hook_mlp_out", "transcoder@blocks.0.hook_resid_post-to-blocks.1.hook_mlp_out")
VARIANTS = old_run.RUN / "variants"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """The older version's run with two SAEs unfinished, in the working folder; their final weights lie in finished/."""
    monkeypatch.chdir(old_run.unpack(tmp_path))
    for name in NAMES:
        shutil.move(VARIANTS / name, Path("finished") / name)
    with tarfile.open(old_run.DATA / "old_unfinished.tar.xz") as archive:
        archive.extractall(filter="data")
    return load(Path(old_run.CONFIG))


def test_training_goes_on_from_an_older_checkpoint_to_the_same_weights(config, caplog) -> None:
    with caplog.at_level(logging.INFO):
        train(config, show_progress=False)
    exact = machine(old_run.RUN) == json.loads(Path("machine.json").read_text(encoding="utf-8"))
    for name in NAMES:
        assert f"{name}: goes on from step 20" in caplog.text
        folders = (VARIANTS / name, Path("finished") / name)
        found, expected = (safetensors.torch.load_file(folder / "weights.safetensors") for folder in folders)
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, rtol=0 if exact else 1e-3, atol=0 if exact else 1e-4)


def test_control_a_tensor_that_is_called_otherwise_is_refused_by_name(config, monkeypatch) -> None:
    monkeypatch.delitem(migration.RENAMED_KEYS[1], "state.safetensors")
    named = r"lacks \['dead_clock\.rows_since_active'\] and holds unknown \['dead_clock\.tokens_since_fired'\]"
    with pytest.raises(CheckpointError, match=named):
        train(config, show_progress=False)
