"""`train` by ranks, here played by threads: the run folder that one process makes, and a stop that all agree on."""

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch
import torch

from strata_sae.pipeline import stopping
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.errors import StoppedError
from strata_sae.pipeline.export.exporting import export
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.trained import load
from strata_sae.pipeline.sharding.ranks import Ranks
from strata_sae.pipeline.trainer import train as training
from support.small_run import RELU, SITE, TOPK, run_data, store_for_training
from support.thread_ranks import on_ranks

SAES = {"topk": TOPK, "batch": TOPK | {"sae": {**TOPK["sae"], "architecture": "batch_topk"}}, "relu": RELU}
N_STEPS = 24


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_for_training(tmp_path_factory.mktemp("store") / "store", n_rows=2000)


def train_by(n: int, data: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> list[type[BaseException] | None]:
    """Train as so many ranks. Returns: what each of them ended with."""
    here = threading.local()

    @contextmanager
    def ranks_here(device: torch.device) -> Iterator[Ranks]:
        yield here.ranks

    def work(ranks: Ranks) -> type[BaseException] | None:
        here.ranks = ranks
        try:
            training.train(RunConfig.model_validate(data), show_progress=False)
        except StoppedError as error:
            return type(error)
        return None

    with monkeypatch.context() as patched:
        patched.setattr(training, "ranks_here", ranks_here)
        for name, value in {"RANK": 0, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n, "LOCAL_RANK": 0}.items():
            patched.setenv(name, str(value))
        return on_ranks(n, work)


def folder(place: Path, name: str) -> VariantFolder:
    return RunFolder(place / "runs" / "run").variant(f"{name}@{SITE}")


def test_a_run_by_ranks_is_that_of_one_process(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    data = run_data(store, SAES, n_steps=N_STEPS)
    for place in (alone, together):
        place.mkdir()
    monkeypatch.chdir(alone)
    training.train(RunConfig.model_validate(data), show_progress=False)
    monkeypatch.chdir(together)
    asked: dict[int, int] = {}
    lock = threading.Lock()

    def asked_of_one() -> bool:
        with lock:  # one of the three hears of it after its 12th update, the others never
            asked[threading.get_ident()] = asked.get(threading.get_ident(), 0) + 1
            return asked[threading.get_ident()] == 13 and sum(count == 13 for count in asked.values()) == 1

    with monkeypatch.context() as patched:
        patched.setattr(stopping, "asked", asked_of_one)
        patched.setattr(stopping, "check", lambda: None)
        assert train_by(3, data, monkeypatch) == [StoppedError] * 3
    saved = sorted(path.name for path in folder(together, "topk").checkpoints.iterdir())
    assert saved == ["step_00000010", "step_00000012"]
    with caplog.at_level(logging.INFO, "strata_sae"):
        assert train_by(2, data, monkeypatch) == [None] * 2
    assert caplog.text.count("each of 2 ranks sent") == 1

    for name in SAES:
        one, own = folder(alone, name), folder(together, name)
        endings = [json.loads(of.training.read_text(encoding="utf-8")) for of in (one, own)]
        assert endings[0]["fingerprint"] == endings[1]["fingerprint"]
        assert endings[1]["status"] == "finished"
        assert sorted(path.name for path in one.path.iterdir()) == sorted(path.name for path in own.path.iterdir())
        expected, found = (safetensors.torch.load_file(of.weights) for of in (one, own))
        assert found.keys() == expected.keys()
        for key in expected:
            assert torch.allclose(found[key], expected[key], rtol=1e-4, atol=1e-6), (name, key)
        steps = [[json.loads(line)["step"] for line in of.curves.read_text().splitlines()] for of in (one, own)]
        assert steps[0] == steps[1]
        assert load(own).sae.d_sae == 64
        assert (export(own.path, "saelens", tmp_path / f"exported {name}") / "cfg.json").exists()
    assert not (together / "runs" / "run" / "claims").exists()


def test_what_ranks_have_trained_they_skip(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = run_data(store, {"relu": RELU}, n_steps=4, warmup_steps=0)
    assert train_by(2, data, monkeypatch) == [None, None]
    written = folder(tmp_path, "relu").training.stat().st_mtime_ns
    assert train_by(3, data, monkeypatch) == [None] * 3
    assert folder(tmp_path, "relu").training.stat().st_mtime_ns == written
