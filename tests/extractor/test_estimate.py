"""The time that an extraction takes: the sum is checked with a made-up rate, and the measuring for being real work."""

from pathlib import Path
from typing import Any

import pytest
import torch

from strata_sae.pipeline.extractor import estimate
from strata_sae.pipeline.extractor.estimate import ForwardRate, estimate_lines, measured_rate
from strata_sae.pipeline.extractor.extract import describe_plan, extract
from strata_sae.pipeline.extractor.plan import planned
from strata_sae.pipeline.language_model.capture import Capture
from strata_sae.stores import committed_units
from strata_sae.stores.files.filesystem import FileSystem
from support.extraction import SITES, extraction_config
from support.small_store import fill_unit, stored_rows

RATE = ForwardRate(50.0, 4, 32, "cpu", 2, 1_234_567)


def test_the_time_is_tokens_by_the_rate():
    time_, memory = estimate_lines(3000, RATE)
    assert time_.startswith("time       about 1 min 0 s for 3,000 tokens in one process: 50 tokens a second")
    assert "3 forward passes of 4 x 32 random tokens on cpu with 2 threads" in time_
    assert memory == "weights    0.00123 GB of memory for the layers of the model that run"
    assert "on cuda;" in estimate_lines(3000, RATE._replace(device="cuda"))[0]
    assert estimate_lines(3000, "not measured: why") == ["time       not measured: why"]


def test_only_tokens_that_are_left_count(tmp_path: Path) -> None:
    config = extraction_config(tmp_path)
    said: list[Any] = []

    def measure(config: Any, n_tokens: int) -> ForwardRate:
        said.append(n_tokens)
        return RATE

    whole = describe_plan(config, show_progress=False, measure=measure)
    plan = planned(config, show_progress=False)
    assert f"for {plan.n_rows:,} tokens in one process" in whole
    rows = {site: stored_rows(site, plan.n_rows, width) for site, width in plan.sites.items()}
    fill_unit(FileSystem(), config.store_path(), plan, 0, rows)
    assert committed_units(config.store_path(), plan) == {0}
    left = plan.n_rows - plan.rows_per_unit
    assert f"for {left:,} tokens in one process" in describe_plan(config, show_progress=False, measure=measure)
    assert said == [plan.n_rows, left]
    assert "tokens a second" not in describe_plan(config, show_progress=False)


def test_a_finished_store_is_not_measured(tmp_path: Path) -> None:
    config = extraction_config(tmp_path)
    extract(config, show_progress=False)
    assert "tokens a second" not in describe_plan(
        config, show_progress=False, measure=lambda config: pytest.fail("measured")
    )


def test_the_measuring_is_real_forward_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = extraction_config(tmp_path)
    seen: list[tuple[torch.Size, list[str]]] = []
    forward = Capture.forward

    def counted(capture: Capture, token_ids_BS: torch.Tensor, position_ids_BS: Any = None) -> Any:
        captured = forward(capture, token_ids_BS, position_ids_BS)
        seen.append((token_ids_BS.shape, list(captured)))
        return captured

    monkeypatch.setattr(estimate, "load", lambda *given: _after_loading(given, monkeypatch, counted))
    rate = measured_rate(config, 3000)
    assert isinstance(rate, ForwardRate)
    assert seen == [(torch.Size([4, 32]), SITES)] * 4
    assert (rate.batch, rate.context, rate.device) == (4, 32, "cpu")
    assert rate.tokens_per_second > 0
    assert rate.model_bytes > 0
    assert not config.store_path().exists()
    seen.clear()
    measured_rate(extraction_config(tmp_path, model={"batch_tokens": 2**30}), 70)
    assert seen[-1][0] == torch.Size([2, 32]), "no larger than the extraction's own batches"


def _after_loading(given: Any, monkeypatch: pytest.MonkeyPatch, counted: Any) -> Capture:
    """The model, whose forward passes are counted from now on: loading it runs some."""
    from strata_sae.pipeline.language_model.loading import load

    capture = load(*given)
    monkeypatch.setattr(Capture, "forward", counted)
    return capture


def test_a_model_that_finds_no_room_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "free_bytes", lambda device: 100_000)
    monkeypatch.setattr(estimate, "load", lambda *_: pytest.fail("measured"))
    said = measured_rate(extraction_config(tmp_path), 3000)
    assert isinstance(said, str)
    assert said.startswith("not measured: the weights take")
    assert said.endswith("and 0.0001 GB are free")
