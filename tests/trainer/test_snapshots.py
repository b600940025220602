"""Snapshots of the decoder's cosines: when they are made, and what they hold against numpy's full matrix."""

import itertools

import numpy as np
import pytest
import torch

from strata_sae.pipeline.runs.record_files import read_lines
from strata_sae.pipeline.runs.records import COSINE_BINS, CurveLine
from strata_sae.pipeline.trainer import snapshots
from strata_sae.pipeline.trainer.session import is_logged
from strata_sae.pipeline.trainer.snapshots import SHARES, share_due, snapshot
from strata_sae.pipeline.trainer.train import train
from support.small_run import ALL, BATCH_TOPK, RELU, TOPK
from support.trained_run import curves, folder_of, weights

EDGES = np.linspace(-1, 1, COSINE_BINS + 1)


@pytest.mark.parametrize(
    ("every", "n_steps"), [(1, 4), (5, 60), (10, 250), (25, 90), (7, 990), (100, 30), (3, 1), (2, 3)]
)
def test_the_first_logged_step_at_or_after_a_share_carries_it(every, n_steps):
    logged = [step for step in range(1, n_steps + 1) if is_logged(step, every, n_steps)]
    expected: dict[int, float] = {}
    for share in SHARES:
        expected[next(step for step in logged if step >= share * n_steps)] = share
    found = {step: share_due(step, every, n_steps) for step in range(1, n_steps + 1)}  # held-out steps have lines, too
    assert {step: share for step, share in found.items() if share is not None} == expected


@pytest.mark.parametrize("tile", [3, 16, 512])
def test_counts_equal_the_full_matrix(tile, monkeypatch):
    monkeypatch.setattr(snapshots, "TILE_LATENTS", tile)
    W_dec = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    W_dec[7], W_dec[9], W_dec[11] = 2 * W_dec[3], -W_dec[3], 0.0  # cosines of 1, -1 and 0
    rows = W_dec.numpy()
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit.T
    found = snapshot(W_dec, 0.5, [3, 7, 20])
    pairs = [float(np.clip(cosines[i, j], -1, 1)) for i, j in itertools.combinations(range(50), 2)]
    largest = [max(float(np.clip(cosines[i, j], -1, 1)) for j in range(50) if j != i) for i in range(50)]
    assert found.pairs == np.histogram(pairs, EDGES)[0].tolist()
    assert found.largest == np.histogram(largest, EDGES)[0].tolist()
    assert (sum(found.pairs), sum(found.largest)) == (50 * 49 // 2, 50)
    assert found.largest[-1] == 2
    assert np.array(found.cosines) == pytest.approx(cosines[np.ix_([3, 7, 20], [3, 7, 20])], abs=1e-12)
    other = snapshot(W_dec.flip(1).cumsum(1), 0.5, [])  # control
    assert other.pairs != found.pairs
    assert other.cosines == []


def test_a_tile_of_more_than_2_to_the_24_cosines_is_counted_exactly():
    """In one call and one thread, histc of float32 stops counting a bin at 2^24: the control."""
    cosines, threads = torch.zeros(2**24 + 5), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert int(torch.histc(cosines, bins=COSINE_BINS, min=-1.0, max=1.0).sum()) == 2**24
        assert int(snapshots._binned(cosines).sum()) == 2**24 + 5
    finally:
        torch.set_num_threads(threads)


WATCHING = {"orthogonality": {"weight": 0.0, "watch": [[5, 2], [5, 9]]}}


def test_training_writes_them_and_weight_zero_leaves_the_weights_alone(make_config):
    """The variants without the term are the reference: adding it at weight 0 changes no bit of any weight."""
    plain = {"topk": TOPK, "relu": RELU}
    watched = {
        f"{name}-watched": {**variant, "objective": {**variant["objective"], **WATCHING}}
        for name, variant in plain.items()
    }
    treated = {**TOPK, "objective": {**TOPK["objective"], "orthogonality": {"weight": 0.1, "watch": [[5, 2]]}}}
    train(make_config(plain | watched | {"treated": treated}), show_progress=False)
    for name in plain:
        one, other = weights(name), weights(f"{name}-watched")
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert not torch.equal(one["W_dec"], weights("treated")["W_dec"])
        lines = read_lines(folder_of(f"{name}-watched").curves, CurveLine)
        made = {line.step: line.similarity for line in lines if line.similarity is not None}
        assert {step: similarity.share for step, similarity in made.items()} == {15: 0.25, 30: 0.5, 45: 0.75, 60: 1.0}
        assert all(similarity.latents == [2, 5, 9] for similarity in made.values())
        assert made[15].pairs != made[60].pairs
        final = snapshot(weights(name)["W_dec"], 1.0, [2, 5, 9])
        assert np.array(made[60].cosines) == pytest.approx(np.array(final.cosines), abs=1e-6)
        for line in curves(f"{name}-watched"):
            assert {f"orthogonality/{kind}_5_2" for kind in ("c", "cos", "correlation")} <= line.keys()
            assert line["orthogonality/competing_pairs"] > 0
            assert line["gradient_norm/orthogonality"] == line["orthogonality/weight"] == 0.0


@pytest.mark.parametrize("every", [1, 60])
def test_all_monitors_on_or_off_change_no_bit(make_config, uninterrupted, every):
    """Against the runs of `uninterrupted`, which log every fifth step: weights and state."""
    train(make_config(ALL, log_every_steps=every), show_progress=False)
    for name in ALL:
        ending = folder_of(name).training.read_text(encoding="utf-8")
        assert uninterrupted[name]["weights"] in ending
        assert uninterrupted[name]["state"] in ending
        assert len(curves(name)) == (60 if every == 1 else 2)
    for term in BATCH_TOPK["objective"]:
        for key in (f"gradient_norm/{term}", f"{term}/loss_share", f"{term}/gradient_share", f"loss/{term}"):
            assert key in curves("batch")[-1]
