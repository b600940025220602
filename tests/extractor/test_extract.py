"""Stage 1 as a user meets it: finished work is recognised, and what cannot work says so and loses nothing."""

import json
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import strata_sae.pipeline.extractor.filling as stage
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.extract import describe_plan, extract
from strata_sae.stores import ActivationStore, StoreError, TakenUnit, UnitQueue
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.format.plan import activation_bytes, token_map_bytes
from strata_sae.stores.writing.units import UnitWriter
from support.extraction import extraction_config


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def small(tmp_path: Path) -> RunConfig:
    return extraction_config(tmp_path, corpus={"n_tokens": 600})


def test_a_finished_store_is_recognised_without_loading_the_model(
    small: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    extract(small, show_progress=False)
    before = snapshot(small.store_path())
    monkeypatch.setattr(stage, "load", lambda *_: pytest.fail("the model was loaded"))
    extract(small, show_progress=False)
    assert "finished before" in caplog.text
    assert snapshot(small.store_path()) == before


def test_an_interrupted_extraction_goes_on_where_it_stopped(
    small: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    take, commit = UnitQueue.take, UnitWriter.commit
    taken: list[TakenUnit | None] = []
    committed = threading.Event()

    def told(writer: UnitWriter) -> bool:
        won = commit(writer)
        committed.set()
        return won

    def only_one(units: UnitQueue) -> TakenUnit | None:
        if taken:
            committed.wait()
            raise KeyboardInterrupt
        taken.append(take(units))
        return taken[0]

    monkeypatch.setattr(UnitWriter, "commit", told)
    monkeypatch.setattr(UnitQueue, "take", only_one)
    with pytest.raises(KeyboardInterrupt):
        extract(small, show_progress=False)
    monkeypatch.setattr(UnitQueue, "take", take)
    with pytest.raises(StoreError, match="unfinished"):
        ActivationStore.open(small.store_path())
    extract(small, show_progress=False)
    assert "going on" in caplog.text
    assert ActivationStore.open(small.store_path()).plan.n_rows == 600


def test_the_store_of_another_config_is_refused_and_kept(small: RunConfig, tmp_path: Path) -> None:
    extract(small, show_progress=False)
    before = snapshot(small.store_path())
    changed = extraction_config(tmp_path, corpus={"n_tokens": 600, "heldout_fraction": 0.2})
    with pytest.raises(ConfigError, match=r"corpus\.heldout_fraction: was 0\.1, is 0\.2") as error:
        extract(changed, show_progress=False)
    assert "another name" in str(error.value)
    assert snapshot(small.store_path()) == before


def test_another_model_may_not_fill_the_rest(small: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_fill", lambda *_: pytest.fail("stop here"))
    with pytest.raises(pytest.fail.Exception):
        extract(small, show_progress=False)
    config_json = Path(small.model.path) / "config.json"
    config = json.loads(config_json.read_text())
    config_json.write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    with pytest.raises(ConfigError, match=r"config\.json: sha256 was \w{12}, is \w{12}"):
        extract(small, show_progress=False)


def test_a_folder_that_is_not_a_store_is_left_alone(small: RunConfig) -> None:
    small.store_path().mkdir()
    (small.store_path() / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="not empty and holds no store"):
        extract(small, show_progress=False)
    assert [path.name for path in small.store_path().iterdir()] == ["thesis.txt"]


def test_an_exhausted_corpus_is_an_error_before_the_model_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "load", lambda *_: pytest.fail("the model was loaded"))
    config = extraction_config(tmp_path, corpus={"n_tokens": 10**6})
    with pytest.raises(ConfigError, match=r"asks for 1,000,000 tokens.*corpus\.repeat"):
        extract(config, show_progress=False)
    assert not config.store_path().exists()
    assert not list(tmp_path.glob(".*")), "nothing is left of the attempt"


def test_a_context_longer_than_the_model_reads_is_refused(tmp_path: Path) -> None:
    config = extraction_config(tmp_path, corpus={"context_length": 65, "n_tokens": 600})
    with pytest.raises(ConfigError, match=r"context_length: 65 tokens, but the model was made for 64"):
        extract(config, show_progress=False)


def test_an_unknown_site_lists_the_sites_there_are(tmp_path: Path) -> None:
    config = extraction_config(tmp_path, store={"sites": ["blocks.1.hook_resid_pots"]})
    with pytest.raises(ConfigError, match=r"hook_resid_post"):
        extract(config, show_progress=False)


def test_a_disk_that_is_too_small_is_found_before_anything_is_written(
    small: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ConfigError, match=r"needs [\d,]+ more bytes and its disk has 1,000 free"):
        extract(small, show_progress=False)
    assert not small.store_path().exists()


def test_the_announced_size_is_exact(small: RunConfig) -> None:
    extract(small, show_progress=False)
    plan = ActivationStore.open(small.store_path()).plan
    arrays = small.store_path() / "activations.zarr"
    shards = sum(path.stat().st_size for path in arrays.glob("sites/**/c/**/*") if path.is_file())
    tokens = sum(path.stat().st_size for path in arrays.glob("tokens/**/c/*") if path.is_file())
    assert activation_bytes(plan) == shards
    assert tokens < token_map_bytes(plan), "the compressed token map is announced as a bound"
    other = small.model_copy(update={"store": small.store.model_copy(update={"path": f"{small.store.path}-other"})})
    assert f"{shards:,} bytes" in describe_plan(other, show_progress=False)


def test_a_full_disk_while_writing_loses_nothing(small: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(FileSystem):
        written = 0

        def write(self, descriptor: int, data: bytes | memoryview) -> None:
            Full.written += len(data)
            if Full.written > 150_000:
                raise OSError(28, "No space left on device", "the store")
            super().write(descriptor, data)

    monkeypatch.setattr(stage, "FileSystem", Full)
    with pytest.raises(OSError, match="No space left"):
        extract(small, show_progress=False)
    monkeypatch.setattr(stage, "FileSystem", FileSystem)
    extract(small, show_progress=False)
    assert ActivationStore.open(small.store_path()).plan.n_rows == 600


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_activation_that_is_no_number_names_its_row(
    small: RunConfig, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = stage.load

    def broken(*arguments: Any) -> Any:
        capture = loaded(*arguments)
        forward = capture.forward

        def poisoned(token_ids_BS: torch.Tensor, position_ids_BS: torch.Tensor | None) -> dict[str, torch.Tensor]:
            values = {site: value.clone() for site, value in forward(token_ids_BS, position_ids_BS).items()}
            values["blocks.1.mlp.hook_post"][0, 5, 3] = bad
            return values

        capture.forward = poisoned
        return capture

    monkeypatch.setattr(stage, "load", broken)
    with pytest.raises(StoreError, match=r"blocks\.1\.mlp\.hook_post, row \d+: the activation holds (nan|inf)"):
        extract(small, show_progress=False)
    assert not list((small.store_path() / "commits").rglob("*.json")), "no unit with such a row is committed"
    monkeypatch.setattr(stage, "load", loaded)
    extract(small, show_progress=False)


def test_a_held_out_share_that_is_far_from_the_one_asked_for_is_said(tmp_path: Path) -> None:
    """Documents are counted, so of two very unequal ones the longer may be held out."""
    (tmp_path / "own").mkdir()
    for name, n_words in (("a", 60), ("b", 240)):
        (tmp_path / "own" / f"{name}.txt").write_text(" ".join(f"word{n % 50}" for n in range(n_words)), "utf-8")
    said = {}
    for seed in range(8):
        sources = [{"kind": "text", "paths": [str(tmp_path / "own" / "*.txt")]}]
        config = extraction_config(tmp_path, corpus={"sources": sources, "n_tokens": None})
        text = describe_plan(config.model_copy(update={"seed": seed}), show_progress=False)
        kept, held = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) (?:to train on|held out)", text)[:2])
        said[held > kept] = "held out   " in text
        assert ("corpus.heldout_fraction is 0.1" in text) == (held > 0.2 * (held + kept)), text
    assert said[True]
    assert "held out   " not in describe_plan(extraction_config(tmp_path), show_progress=False), "control"


def test_a_plan_is_described_and_nothing_stays(small: RunConfig, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    text = describe_plan(small, show_progress=False)
    assert "600 of" in text
    assert "units " in text
    assert "x a perfect shuffle" in text
    assert snapshot(tmp_path) == before
    inside = small.store.model_copy(update={"path": str(tmp_path / "data" / "store")})
    describe_plan(small.model_copy(update={"store": inside}), show_progress=False)
    assert not (tmp_path / "data").exists()
    too_long = small.corpus.model_copy(update={"n_tokens": 10**9})
    with pytest.raises(ConfigError, match=r"corpus\.n_tokens"):
        describe_plan(small.model_copy(update={"store": inside, "corpus": too_long}), show_progress=False)
    assert not (tmp_path / "data").exists(), "nor where it ends in an error"
