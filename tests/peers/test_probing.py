"""Probes against sae-probes' own functions on the same saved codes: the same latents, the same scores.

sae_probes reads its master table of tasks when its modules are imported, and this environment's wheel carries none: a
table without tasks stands in its place for that moment. The functions under test read no file.
"""

import os
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from strata_sae.pipeline.evaluation.probing.classifier import probe, ranked
from strata_sae.pipeline.evaluation.probing.drawing import drawn

pytestmark = pytest.mark.peers

N_ROWS, N_LATENTS, N_TRAIN = 600, 400, 400
KINDS = ("sparse", "dense", "separable", "rare", "negative")


@pytest.fixture(scope="module")
def theirs() -> Any:
    """utils_training and run_sae_evals of sae_probes, and its draw of rows."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import pandas as pd

    table = pd.DataFrame({"Data type": [], "Dataset save name": [], "Dataset Tag": []}).astype(str)
    read, pd.read_csv = pd.read_csv, lambda *args, **options: table
    try:
        modules = [import_module(f"sae_probes.{name}") for name in ("run_sae_evals", "utils_data", "utils_training")]
    finally:
        pd.read_csv = read

    run_sae_evals, utils_data, utils_training = modules

    class Theirs:
        rank = staticmethod(run_sae_evals.get_sorted_indices)
        normalised = staticmethod(run_sae_evals.mean_act_normalization)
        best = staticmethod(utils_training.find_best_reg)
        draw = staticmethod(utils_data.get_train_test_indices)

    return Theirs


def codes(kind: str, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Float32 codes [N, E] of the kinds there are, and labels that some of the latents know."""
    generator = torch.Generator().manual_seed(seed)
    y_N = torch.randint(0, 2, (N_ROWS,), generator=generator)
    values = torch.randn(N_ROWS, N_LATENTS, generator=generator) * 20
    values[:, :8] += y_N[:, None] * torch.linspace(2, 30, 8)
    codes_NE = {
        "sparse": (values - 20).relu(),
        "dense": values.relu(),
        "separable": (values + 200 * y_N[:, None]).relu(),
        "rare": (values - 45).relu(),
        "negative": values,
    }[kind]
    codes_NE[:, 9::50] = 0.0  # latents that are never active
    return codes_NE, y_N.numpy()


@pytest.mark.parametrize("seed", [42, 43, 7])
@pytest.mark.parametrize(("n_train", "n_test"), [(400, 160), (333, 151)])
def test_the_same_rows_are_drawn(theirs: Any, seed: int, n_train: int, n_test: int):
    _, y_N = codes("dense")
    ours = drawn(y_N, n_train, n_test, seed)
    for found, expected in zip(ours, theirs.draw(y_N, n_train, n_test, seed=seed), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_latents_come_first(theirs: Any, kind: str):
    codes_NE, y_N = codes(kind)
    train, y_train = codes_NE[:N_TRAIN], y_N[:N_TRAIN]
    expected = theirs.rank(train, torch.tensor(y_train), theirs.normalised)
    assert ranked(train, y_train).tolist() == expected.tolist()


@pytest.mark.parametrize("seed", [42, 44])
@pytest.mark.parametrize("k", [1, 2, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_scores(theirs: Any, kind: str, k: int, seed: int):
    codes_NE, y_N = codes(kind)
    chosen = ranked(codes_NE[:N_TRAIN], y_N[:N_TRAIN])[:k]
    train, test = codes_NE[:N_TRAIN, chosen], codes_NE[N_TRAIN:, chosen]
    y = torch.tensor(y_N)
    with threadpool_limits(limits=1):  # sums of several threads differ in their last bits
        expected = theirs.best(train, y[:N_TRAIN], test, y[N_TRAIN:], seed=seed).metrics
    found = probe(train.numpy(), y_N[:N_TRAIN], test.numpy(), y_N[N_TRAIN:], seed)
    wanted = (expected.test_auc, expected.test_acc, expected.test_f1)
    assert found == pytest.approx(wanted, abs=1e-6)


def test_the_comparison_sees_another_latent_and_another_row(theirs: Any):
    codes_NE, y_N = codes("sparse")
    plain = theirs.rank(codes_NE[:N_TRAIN], torch.tensor(y_N[:N_TRAIN]), None)
    assert ranked(codes_NE[:N_TRAIN], y_N[:N_TRAIN])[:16].tolist() != plain[:16].tolist()
    y = torch.tensor(y_N)
    train, test = codes_NE[:N_TRAIN, :4], codes_NE[N_TRAIN:, :4]
    expected = theirs.best(train, y[:N_TRAIN], test, y[N_TRAIN:], seed=42).metrics
    swapped = y_N[N_TRAIN:].copy()
    swapped[0] = 1 - swapped[0]
    found = probe(train.numpy(), y_N[:N_TRAIN], test.numpy(), swapped, 42)
    assert abs(found.auc - expected.test_auc) > 1e-6
