"""A model that is not there, one held-out document, rows that are NaN: a line each, and nothing else is lost."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.intervention import intervene as stage
from strata_sae.pipeline.intervention.intervene import intervene
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.stores import ActivationStore, Token, write_store
from support.judged_run import MLP_IN, MLP_OUT, STREAM, identity, judged_config, losses_of, put, rough
from support.tiny_models import D_MODEL, save_tiny_model


def moved(config: TrainConfig, path: Path | None) -> TrainConfig:
    """The same config, which names another model, or none."""
    data = config.model_dump(mode="json", exclude_unset=True)
    data |= {"model": data["model"] | {"path": str(path)}} if path else {}
    if path is None:
        del data["model"], data["corpus"]
    return TrainConfig.model_validate(data)


def test_a_model_that_is_not_there_is_named_and_what_needs_none_is_scored(
    config_of: Callable[..., TrainConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(evaluation={"with_model": {"max_rows": 64}})
    folder = put(config, "rough", rough(D_MODEL), [STREAM])
    gone = moved(config, tmp_path / "gone")
    stages.evaluate_saes(gone)
    with pytest.raises(ConfigError, match=r"model\.path: there is no folder .*gone") as raised:
        stages.measure_with_model(gone)
    assert "\n" not in str(raised.value)
    stages.measure_if_the_model_is_there(gone)
    assert "nothing is measured with the model: model.path: there is no folder" in caplog.text
    assert folder.metrics.exists()
    assert not folder.model_metrics.exists()
    stages.measure_with_model(config)
    assert folder.model_metrics.exists(), "the control"
    stages.measure_with_model(gone)  # what is measured needs no model


def test_another_model_is_refused(config_of: Callable[..., TrainConfig], tmp_path: Path) -> None:
    config = config_of(evaluation={"with_model": {"max_rows": 64}})
    put(config, "rough", rough(D_MODEL), [STREAM])
    other = shutil.copytree(save_tiny_model(tmp_path / "made", "qwen3"), tmp_path / "other")
    with pytest.raises(ConfigError, match=r"model\.path: is not the model that the store was made from: .*sha256 was"):
        intervene(moved(config, other))
    with pytest.raises(ConfigError, match=r"there is no folder .*#|model\.path: .*#"):
        intervene(moved(config, None))  # the plan names a path under somebody's home by its hash


def test_rows_of_no_model_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows_NM = np.random.default_rng(0).standard_normal((200, D_MODEL)).astype(np.float32)
    write_store(
        tmp_path / "toy",
        {STREAM: rows_NM},
        tokens={"token_id": np.zeros(200, np.int32), "document": np.arange(200) // 20},
        vocabulary={0: Token(b"one", special=False)},
    )
    config = judged_config(tmp_path / "real")
    data = config.model_dump(mode="json", exclude_unset=True)
    data["store"] = {"path": str(tmp_path / "toy"), "sites": [STREAM]}
    config = TrainConfig.model_validate(data)
    put(config, "rough", rough(D_MODEL), [STREAM])
    with pytest.raises(ConfigError, match="names no language model and no corpus"):
        intervene(config)


def test_a_crosscoder_is_left_out_by_name_and_the_others_are_measured(
    config_of: Callable[..., TrainConfig], caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"architecture": "relu", "d_sae": 64, "pre_bias": False}
    both = {"sae": settings, "objective": {"reconstruction": {}}, "reads": [MLP_IN, MLP_OUT]}
    plain = {"sae": {"architecture": "relu", "d_sae": 64}, "objective": {"reconstruction": {}}}
    config = config_of(variants={"plain": plain, "both": both}, evaluation={"with_model": {"max_rows": 64}})
    crosscoder = put(config, "both", rough(2 * D_MODEL), [MLP_IN, MLP_OUT])
    sae = put(config, "plain", rough(D_MODEL), [STREAM])
    intervene(config)
    assert f"{crosscoder.name}: not measured with the model: it writes 2 sites at once" in caplog.text
    assert not crosscoder.model_metrics.exists()
    assert sae.model_metrics.exists()


def test_of_few_documents_there_is_no_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    intervals = {}
    for max_rows in (32, None):
        config = judged_config(tmp_path, corpus={"n_tokens": 3000}, evaluation={"with_model": {"max_rows": max_rows}})
        found = losses_of(measured(config))
        intervals[found.n_documents] = found.forms["population"].ce_recovered
    few, many = sorted(intervals)
    assert few < 8 <= many
    assert intervals[few].interval is None
    assert intervals[few].value is not None
    interval = intervals[many].interval
    assert interval is not None
    assert interval.low < intervals[many].value < interval.high


def measured(config: TrainConfig) -> VariantFolder:
    folder = put(config, "rough", rough(D_MODEL), [STREAM])
    intervene(config)
    return folder


def test_sequences_with_nan_rows_are_left_out(
    config_of: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(evaluation={"with_model": {"max_rows": 96}})
    whole = losses_of(measured(config))
    store = ActivationStore.open(config.store_path())
    bad = store.plan.splits["heldout"][0] + 5
    real = ActivationStore.rows

    def rows(self: ActivationStore, site: str, start: int, stop: int) -> np.ndarray:
        found = real(self, site, start, stop).copy()
        if start <= bad < stop:
            found[bad - start, 3] = np.nan
        return found

    monkeypatch.setattr(ActivationStore, "rows", rows)
    folder = put(config, "again", rough(D_MODEL), [STREAM])
    intervene(config)
    found = losses_of(folder)
    assert "1 of 3 sequences hold a row with a NaN or an infinity and are left out" in caplog.text
    assert (found.n_sequences_left_out, found.n_sequences) == (1, whole.n_sequences - 1)
    assert found.clean_cross_entropy.value is not None
    monkeypatch.setattr(ActivationStore, "rows", lambda *args: np.full_like(real(*args), np.nan))
    put(config, "none", rough(D_MODEL), [STREAM])
    with pytest.raises(ConfigError, match="every chosen sequence holds a row at"):
        intervene(config)


def test_losses_that_are_there_and_fit_are_skipped_and_damaged_ones_refused(
    config_of: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = config_of(evaluation={"with_model": {"max_rows": 64}})
    folder = measured(config)
    before = folder.model_metrics.read_bytes()
    load = stage.load_model
    monkeypatch.setattr(stage, "load_model", lambda *_: pytest.fail("the model was loaded"))
    intervene(config)
    assert f"{folder.name}: measured with the model already" in caplog.text
    monkeypatch.setattr(stage, "load_model", load)
    intervene(config_of(evaluation={"with_model": {"max_rows": 96}}))
    assert folder.model_metrics.read_bytes() != before, "other rows are measured anew"
    folder.model_metrics.write_bytes(before.replace(b'"n_rows": ', b'"n_rows": 1', 1))
    with pytest.raises(CheckpointError, match=r"model_metrics\.json: its self_sha256"):
        intervene(config)


def test_a_store_without_held_out_rows_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    config = judged_config(tmp_path, corpus={"heldout_fraction": 0.0})
    put(config, "same", identity(D_MODEL), [STREAM])
    intervene(config)
    assert "holds no held-out rows, so no loss of the model is measured" in caplog.text
    evaluate(config)
