"""`device: auto` is the device that it chose: not another config than that device."""

from pathlib import Path

import pytest
import torch

import strata_sae.pipeline.available as available
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config.run import ExtractConfig, differences
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.record_files import read_record, with_fingerprint, write_record
from strata_sae.pipeline.runs.records import SAERecord, TrainingPart
from strata_sae.pipeline.trainer.jobs import is_done, plan_jobs
from strata_sae.pipeline.trainer.train import train
from support.extraction import extraction_config
from support.small_run import TOPK, run_data, store_for_training


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a run of six steps lies, trained with `device: auto` on a machine without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    store_for_training(Path("store"))
    train(config("auto"), show_progress=False)
    return next(Path("runs/run/variants").iterdir())


def config(device: str) -> RunConfig:
    return RunConfig.model_validate(run_data(Path("store"), {"topk": TOPK}, n_steps=6, device=device))


def done(device: str) -> bool:
    settings = config(device)
    (job,) = plan_jobs(settings, open_store(settings), RunFolder(settings.run_path()))
    return is_done(job)


def record_device(folder: Path, device: str) -> None:
    """Rewrite config.json as if training had been begun on another device."""
    record = read_record(folder / "config.json", SAERecord).record
    training = TrainingPart.model_validate(record.training.model_dump() | {"device": device})
    write_record(folder / "config.json", with_fingerprint(record.model_copy(update={"training": training})))


def test_the_record_names_the_device(trained: Path) -> None:
    assert read_record(trained / "config.json", SAERecord).record.training.further()["device"] == "cpu"


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_finished_run_is_recognised_under_both_names(trained: Path, device: str) -> None:
    assert done(device)
    before = (trained / "weights.safetensors").stat().st_mtime_ns
    train(config(device), show_progress=False)
    assert (trained / "weights.safetensors").stat().st_mtime_ns == before


def test_auto_goes_on_with_what_another_device_began(trained: Path) -> None:
    record_device(trained, "cuda")
    settings = config("auto")
    (job,) = plan_jobs(settings, open_store(settings), RunFolder(settings.run_path()))
    assert job.record.training.further()["device"] == "cuda"


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_record_of_an_older_version_holds_the_word_auto(trained: Path, device: str) -> None:
    record_device(trained, "auto")
    settings = config(device)
    (job,) = plan_jobs(settings, open_store(settings), RunFolder(settings.run_path()))
    assert job.record.training.further()["device"] == "auto"


def test_control_another_device_is_another_config(trained: Path) -> None:
    record_device(trained, "cuda")
    with pytest.raises(CheckpointError, match=r"training\.device: was \"cuda\", is \"cpu\"\); set that back"):
        done("cpu")


@pytest.mark.parametrize("recorded", ["auto", "cpu", "cuda"])
@pytest.mark.parametrize("asked", ["auto", "cpu", "cuda"])
@pytest.mark.parametrize("here", ["cpu", "cuda"])
def test_a_plan_is_compared_by_the_device_that_auto_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: str, asked: str, here: str
) -> None:
    configs: list[ExtractConfig] = [extraction_config(tmp_path, model={"device": name}) for name in (recorded, asked)]
    monkeypatch.setattr(available.torch.cuda, "is_available", lambda: here == "cuda")
    monkeypatch.setattr(available.torch.cuda, "device_count", lambda: int(here == "cuda"))
    then, now = (here if name == "auto" else name for name in (recorded, asked))
    found = differences(configs[0].extraction(), configs[1].extraction())
    assert [line.split(":")[0] for line in found] == ([] if then == now else ["model.device"])


def test_the_plan_of_auto_still_says_auto(tmp_path: Path) -> None:
    """The plan's hash decides the order of batches, so what it holds stays as it was."""
    assert extraction_config(tmp_path, model={"device": "auto"}).extraction()["model"]["device"] == "auto"
