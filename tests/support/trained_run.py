"""Training small runs in the working folder, stopping them, and reading what they leave."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.trainer import session
from strata_sae.pipeline.trainer.train import train
from strata_sae.stores.files.hashing import file_sha256
from support.small_run import SITE

RUN = Path("runs/run")


def hashes(run: Path = RUN) -> dict[str, Any]:
    """Variant -> sha256 of final weights, curves and training state."""
    found = {}
    for folder in RunFolder(run).trained():
        found[folder.variant] = json.loads(folder.training.read_text())["sha256"]
        assert found[folder.variant]["weights"] == file_sha256(folder.weights)
        assert found[folder.variant]["curves"] == file_sha256(folder.curves)
        assert not folder.checkpoints.exists()
    return found


def folder_of(name: str) -> VariantFolder:
    return RunFolder(RUN).variant(f"{name}@{SITE}")


def curves(name: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in folder_of(name).curves.read_text().splitlines()]


def weights(name: str) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder_of(name).weights)


class Stop(Exception):
    pass


def train_until(config: RunConfig, monkeypatch: pytest.MonkeyPatch, save: int, *, before: bool) -> None:
    """Stop at the `save`-th checkpoint of the whole group, before or after it is on disk."""
    count = 0
    real = session.Session._save

    def stopping(self: session.Session) -> None:
        nonlocal count
        count += 1
        if before and count == save:
            raise Stop
        real(self)
        if not before and count == save:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "_save", stopping)
        with pytest.raises(Stop):
            train(config, show_progress=False)
