"""A unit that fails costs the others nothing, and its store in the end neither; nor does a request to end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import strata_sae.pipeline.extractor.filling as stage
from strata_sae.pipeline import stopping
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.engines import Share
from strata_sae.pipeline.errors import ConfigError, StoppedError
from strata_sae.pipeline.extractor.extract import extract, fill_share
from strata_sae.stores import StoreError, UnitWriter, committed_units, read_plan, verify
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.format.plan import STAGING, TIMINGS
from support.extraction import extraction_config


def contents(store: Path) -> dict[str, str]:
    """Hash of every file of a store but the timings."""
    files = (file for file in sorted(store.rglob("*")) if file.is_file() and TIMINGS not in file.parts)
    return {str(file.relative_to(store)): file_sha256(file) for file in files}


@pytest.fixture
def config_of(tmp_path: Path) -> Callable[[str], RunConfig]:
    torch.set_num_threads(1)  # equal bytes are promised for an equal thread count
    return lambda name: extraction_config(tmp_path, store={"path": str(tmp_path / name), "shard_bytes": 65536})


def forward_is(change: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model that is loaded runs `change(its forward)` in the place of its forward."""
    loaded = stage.load

    def load(*arguments: Any) -> Any:
        capture = loaded(*arguments)
        capture.forward = change(capture.forward)
        return capture

    monkeypatch.setattr(stage, "load", load)


def test_a_unit_that_always_fails_is_named_and_the_others_are_filled(
    config_of: Callable[[str], RunConfig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config, path = config_of("store"), config_of("store").store_path()
    began, commit, attempts = UnitWriter.__init__, UnitWriter.commit, []

    def begin(writer: UnitWriter, files: Any, store: Path, plan: Any, unit: int, *more: Any) -> None:
        began(writer, files, store, plan, unit, *more)
        writer.unit = unit  # type: ignore[attr-defined]

    def refuse(writer: Any) -> bool:
        attempts.append(writer.unit)
        if writer.unit == 2:
            raise OSError(5, "Input/output error", "disk 7")
        return commit(writer)

    with monkeypatch.context() as patch:
        patch.setattr(UnitWriter, "__init__", begin)
        patch.setattr(UnitWriter, "commit", refuse)
        with pytest.raises(StoreError, match=r"unit 2 .*disk 7") as error:
            extract(config, show_progress=False)
    assert "\n" not in str(error.value)
    assert attempts.count(2) == 3
    assert sum("unit 2: " in record.message for record in caplog.records) == 3
    plan = read_plan(path)
    assert plan.n_units > 8
    assert committed_units(path, plan) == set(range(plan.n_units)) - {2}, "the others are there"
    left = [file.name.split(".")[0] for file in (path / STAGING).iterdir()]
    assert left == ["failed"] * 3, "no claim is left, and nothing staged"
    with monkeypatch.context() as patch:
        patch.setattr(UnitWriter, "__init__", begin)
        patch.setattr(UnitWriter, "commit", refuse)
        with pytest.raises(StoreError, match=r"unit 2 .*disk 7"):
            extract(config, show_progress=False)  # where it is the only one, too
    assert attempts.count(2) == 6
    extract(config, show_progress=False)
    extract(config_of("alone"), show_progress=False)
    assert contents(path) == contents(config_of("alone").store_path())
    assert verify(path, deep=True) == []


def test_a_device_that_was_full_for_a_moment_fails_one_unit(
    config_of: Callable[[str], RunConfig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def full_once(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == 5:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return forward(*arguments)

        return run

    with monkeypatch.context() as patch:
        forward_is(full_once, patch)
        extract(config_of("store"), show_progress=False)
    assert "no memory is left: CUDA out of memory" in caplog.text
    assert "lower model.batch_tokens" in caplog.text
    extract(config_of("alone"), show_progress=False)
    assert contents(config_of("store").store_path()) == contents(config_of("alone").store_path())


def test_a_device_that_is_always_full_is_one_line_after_three_units(
    config_of: Callable[[str], RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def full(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            calls.append(1)
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

        return run

    forward_is(full, monkeypatch)
    with pytest.raises(ConfigError, match="no memory is left") as error:
        extract(config_of("store"), show_progress=False)
    assert "\n" not in str(error.value)
    assert len(calls) == 3


def test_an_error_of_the_program_is_raised_as_it_is_and_counts_as_no_failure(
    config_of: Callable[[str], RunConfig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(forward: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *_: [][0]

    with monkeypatch.context() as patch:
        forward_is(broken, patch)
        with pytest.raises(IndexError):
            extract(config_of("store"), show_progress=False)
    path = config_of("store").store_path()
    assert not list((path / STAGING).iterdir())
    assert "unit" not in caplog.text
    extract(config_of("store"), show_progress=False)


@pytest.mark.parametrize("batch", [1, 12, 18])
def test_a_request_to_end_comes_between_two_batches_and_loses_nothing(
    config_of: Callable[[str], RunConfig], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def asks(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            calls.append(1)
            return forward(*arguments)

        return run

    path = config_of("store").store_path()
    with monkeypatch.context() as patch:
        forward_is(asks, patch)
        patch.setattr(stopping, "asked", lambda: len(calls) >= batch)
        with pytest.raises(StoppedError):
            extract(config_of("store"), show_progress=False)
    assert len(calls) == batch, "no batch more was run"
    plan = read_plan(path)
    there = committed_units(path, plan)
    assert len(there) < plan.n_units
    assert bool(there) == (batch > 1), "what had been run in full is committed"
    assert not list((path / STAGING).iterdir()), "the unit is given back"
    assert not [file for file in path.iterdir() if "fail" in file.name], "and no failure is counted"
    extract(config_of("store"), show_progress=False)
    extract(config_of("alone"), show_progress=False)
    assert contents(path) == contents(config_of("alone").store_path())


def test_a_machine_that_does_not_see_the_store_says_so(tmp_path: Path) -> None:
    config = extraction_config(tmp_path)
    with pytest.raises(StoreError, match=r"planned is not there on .*every machine has to see the same folder"):
        fill_share(config.model, config.store_path(), False, Share(3, 8, "run"))
    assert not config.store_path().exists()
