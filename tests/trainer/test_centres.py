"""Where b_dec starts, of all rows to train on: against numpy on the whole split at once."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.saes.topk import TopK
from strata_sae.pipeline.trainer.centres import CENTRES_OF_ALL, median_of_all
from strata_sae.pipeline.trainer.train import train
from strata_sae.stores import ActivationStore, Filters
from support.small_run import SITE, TOPK, run_data
from support.small_store import build_store
from support.trained_run import folder_of, weights


def in_pieces(rows: np.ndarray, size: int = 7) -> Callable[[], Iterator[Tensor]]:
    def batches() -> Iterator[Tensor]:
        return (torch.from_numpy(rows[at : at + size].copy()) for at in range(0, len(rows), size))

    return batches


def special_rows(n_rows: int) -> np.ndarray:
    """Of every size and sign, many of them equal: each column another way to get a byte wrong."""
    rng = np.random.default_rng(n_rows)
    rows = rng.standard_normal((n_rows, 8)).astype(np.float32)
    rows[:, 1] = np.abs(rows[:, 1]) * 1e30
    rows[:, 2] = -np.abs(rows[:, 2]) * 1e-40  # below the smallest normal number
    rows[:, 3] = rng.integers(-1, 2, n_rows)
    rows[:, 4] = 0.0
    rows[:, 5] = 1.0 + rng.integers(0, 3, n_rows).astype(np.float32) * np.float32(2.0**-23)  # the last bit decides
    rows[:, 6] = np.where(np.arange(n_rows) % 2, -3e38, 3e38)
    rows[:, 7] = np.linspace(-1e-3, 1e3, n_rows)
    return rows


@pytest.mark.parametrize("n_rows", [1, 2, 3, 100, 101, 1000])
def test_the_median_is_exact(n_rows):
    rows = special_rows(n_rows)
    expected = np.median(rows.astype(np.float64), axis=0).astype(np.float32)
    assert np.array_equal(median_of_all(in_pieces(rows)).numpy(), expected)
    if n_rows == 101:  # control: another number than its neighbour in rank
        assert not np.array_equal(np.sort(rows, axis=0)[51], expected)


@pytest.mark.parametrize("centre", ["mean", "median"])
@pytest.mark.parametrize("input_scale", ["statistics", "none", "per_document"])
def test_training_starts_at_the_centre_of_all_rows(make_config, store, centre, input_scale):
    sae = {**TOPK["sae"], "initial": {"b_dec": centre, "b_dec_from": "train_split"}}
    first = {**TOPK["sae"], "initial": {"b_dec": centre}}
    variants: dict[str, Any] = {"all": {**TOPK, "sae": sae}, "first": {**TOPK, "sae": first}}
    train(make_config(variants, n_steps=1, learning_rate=1e-12, input_scale=input_scale), show_progress=False)
    opened = ActivationStore.open(store)
    ((rows, numbers),) = opened.in_order(SITE, "train", Filters(True, True), 10**6)
    seen = rows.astype(np.float64)
    if input_scale == "per_document":
        documents = opened.token_map("document", 0, opened.plan.n_rows)[numbers]
        for number in np.unique(documents):
            of_it = documents == number
            seen[of_it] = (seen[of_it] - seen[of_it].mean()) / seen[of_it].std(ddof=1) * 16**0.5
    expected = np.mean(seen, axis=0) if centre == "mean" else np.median(seen, axis=0)
    np.testing.assert_allclose(weights("all")["b_dec"], expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(weights("first")["b_dec"], expected, rtol=1e-3, atol=1e-4), "control: of 64 rows"


def test_a_transcoder_starts_at_the_centre_of_what_it_writes(tmp_path, monkeypatch):
    store = build_store(tmp_path / "two", 1000, {"a": 16, "b": 8})
    initial = {"encoder": "independent", "b_dec": "median", "b_dec_from": "train_split"}
    variant = {
        "sae": {**TOPK["sae"], "pre_bias": False, "initial": initial},
        "objective": {"reconstruction": {}},
        "reads": ["a"],
        "writes": ["b"],
    }
    data = run_data(store, {"t": variant}, n_steps=1, learning_rate=1e-12)
    data["store"]["sites"] = ["a", "b"]
    monkeypatch.chdir(tmp_path)
    train(RunConfig.model_validate(data), show_progress=False)
    ((rows, _),) = ActivationStore.open(store).in_order("b", "train", Filters(True, True), 10**6)
    path = folder_of("t").path.parent / "t@a-to-b" / "weights.safetensors"
    found = safetensors.torch.load_file(path)["b_dec"]
    np.testing.assert_allclose(found, np.median(rows, axis=0), rtol=1e-4, atol=1e-5)


def test_what_has_no_centre_of_all_rows_is_refused():
    of_all = {*CENTRES_OF_ALL}
    for centre in ("geometric_median", "mean", "median", "zero"):
        settings = {"d_sae": 4, "k": 1, "initial": {"b_dec": centre, "b_dec_from": "train_split"}}
        if centre in of_all:
            TopK.Settings.model_validate(settings)
        else:
            with pytest.raises(ValueError, match=f"mean or median, got {centre}"):
                TopK.Settings.model_validate(settings)
