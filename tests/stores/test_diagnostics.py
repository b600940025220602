"""Diagnostics of the loader: counts against brute force, good and bad windows told apart, seconds added up."""

import runpy
from fractions import Fraction
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strata_sae.stores import ActivationStore, Batches, Filters
from strata_sae.stores.serving import mixing as origins
from strata_sae.stores.serving.mixing import BatchMixing, Tally, batch_mixing, counted, expected_distinct, read_runs
from support.small_store import build_store

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "mixing.py"))
SITE = BENCHMARK["SITE"]
ALL_ROWS = Filters(drop_bos=False, drop_special=False)
LENGTHS = np.random.default_rng(3).integers(1, 400, 200)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return BENCHMARK["signal_store"](tmp_path_factory.mktemp("signals") / "store", LENGTHS, 64, n_signals=8)


def mixing_of(store: ActivationStore, batch_size: int, filters: Filters = ALL_ROWS, site: str = SITE) -> BatchMixing:
    mixing = batch_mixing(store, site, "train", filters, batch_size)
    assert mixing is not None
    return mixing


def mean_ratios(store: ActivationStore, window_rows: int, batch_size: int) -> dict[str, float]:
    mixing = mixing_of(store, batch_size)
    with Batches(store, SITE, batch_size=batch_size, window_rows=window_rows, filters=ALL_ROWS) as batches:
        found = [mixing.measure(batches.batch(step)[1]) for step in range(batches.n_rows // batch_size)]
    return {name: float(np.mean([line[name] for line in found])) for name in found[0]}


@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.data())
def test_the_expected_number_of_groups_is_the_hypergeometric_one(sizes: list[int], data: st.DataObject) -> None:
    n_rows = sum(sizes)
    batch_size = data.draw(st.integers(1, n_rows))
    exact = sum(1 - Fraction(comb(n_rows - size, batch_size), comb(n_rows, batch_size)) for size in sizes)
    assert expected_distinct(np.array(sizes), batch_size) == pytest.approx(float(exact), rel=1e-12)


def test_the_expectation_is_stable_for_a_billion_rows() -> None:
    sizes = np.full(10**6, 1000)
    missed = np.log1p(
        -2048 / (10.0**9 - np.arange(1000))
    ).sum()  # the same product, its factors cancelled the other way
    assert expected_distinct(sizes, 2048) == pytest.approx(10**6 * -np.expm1(missed), rel=1e-12)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 5)), max_size=60))
def test_a_tally_is_a_sum(pairs: list[tuple[int, int]]) -> None:
    tally = Tally()
    tally._limit = 5  # merges on the way
    for value, count in pairs:
        tally.add(np.array([value]), np.array([count]))
    values, counts = tally.result()
    expected = {value: sum(c for v, c in pairs if v == value) for value, _ in pairs}
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == expected


@pytest.mark.parametrize("values", [[3, 1, 3], [0], [2**31 - 1, 7, 7], [-1, 5]])
def test_positions_are_counted_however_large(values: list[int]) -> None:
    found, counts = counted(np.array(values, np.int32))
    assert dict(zip(found.tolist(), counts.tolist(), strict=True)) == {v: values.count(v) for v in values}


@pytest.mark.parametrize("filters", [Filters(), Filters(max_norm_multiple=1.3), ALL_ROWS], ids=["bos", "norms", "all"])
def test_a_batch_is_measured_as_by_hand(tmp_path: Path, filters: Filters) -> None:
    site, batch_size = "blocks.1.hook_resid_post", 64
    opened = ActivationStore.open(build_store(tmp_path / "store", 5000))
    mixing = mixing_of(opened, batch_size, filters, site)
    start, stop = opened.plan.splits["train"]
    document_N, position_N = (opened.token_map(field, start, stop) for field in ("document", "position"))
    passing = np.concatenate([numbers for _, numbers in opened.in_order(site, "train", filters, 512)])
    shares = np.bincount(document_N[passing]) / len(passing)
    assert mixing.n_rows == len(passing)
    assert mixing.documents == pytest.approx(expected_distinct(np.bincount(document_N[passing]), batch_size))
    assert mixing.positions == pytest.approx(expected_distinct(np.bincount(position_N[passing]), batch_size))
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(300):
        numbers = rng.choice(passing, batch_size, replace=False)
        found = mixing.measure(numbers)
        assert found["documents"] == len(set(document_N[numbers].tolist()))
        assert found["positions"] == len(set(position_N[numbers].tolist()))
        ratios.append(found["variance_ratio"])
        # E (mean over the batch - mean over all)^2 of a signal with variance 1, drawn once for each document.
        apart = np.square(np.bincount(document_N[numbers], minlength=len(shares)) / batch_size - shares).sum()
        perfect = (1 - np.square(shares).sum()) / batch_size * (len(passing) - batch_size) / (len(passing) - 1)
        assert found["variance_ratio"] == pytest.approx(apart / perfect)
    assert np.mean(ratios) == pytest.approx(1, abs=0.02)


def test_rows_stored_shuffled_have_runs_too(store: ActivationStore, monkeypatch: pytest.MonkeyPatch) -> None:
    order = np.random.default_rng(0).permutation(store.plan.n_rows)
    plain = {field: store.token_map(field, 0, store.plan.n_rows) for field in ("document", "position")}
    real = type(store).token_map
    monkeypatch.setattr(type(store), "token_map", lambda _, field, a, b: plain[field][order][a:b])
    runs = read_runs(store, "train")
    assert runs is not None
    run, position = runs.of(np.arange(store.plan.n_rows))
    assert (runs.document[run] == plain["document"][order]).all()
    assert (position == plain["position"][order]).all()
    scattered = mixing_of(store, 128)
    monkeypatch.setattr(origins, "MAX_RUNS", 1000)
    assert batch_mixing(store, SITE, "train", ALL_ROWS, 128) is None
    monkeypatch.setattr(type(store), "token_map", real)
    in_order = mixing_of(store, 128)
    assert (scattered.documents, scattered.positions) == (in_order.documents, in_order.positions)
    assert scattered.predicted_variance_ratio(1) < 1.1 < 10 < in_order.predicted_variance_ratio(1)


def test_a_window_over_everything_is_as_good_as_a_perfect_shuffle(store: ActivationStore) -> None:
    found = mean_ratios(store, store.plan.n_rows, 256)
    for name in ("documents_ratio", "positions_ratio"):
        assert found[name] == pytest.approx(1, abs=0.05)
    assert found["variance_ratio"] < 1.2
    mixing = mixing_of(store, 256)
    first = []
    for seed in range(8):
        with Batches(store, SITE, seed=seed, batch_size=256, window_rows=2**20, filters=ALL_ROWS) as batches:
            first.append(mixing.measure(batches.batch(0)[1]))
    for name in ("documents_ratio", "positions_ratio"):
        assert np.mean([line[name] for line in first]) == pytest.approx(1, abs=0.05)


def test_corpus_order_and_a_tiny_window_are_seen(store: ActivationStore) -> None:
    tiny = mean_ratios(store, 256, 256)
    assert tiny["documents_ratio"] < 0.2
    assert tiny["variance_ratio"] > 20
    in_order = mixing_of(store, 256).measure(np.arange(256))
    assert in_order["documents_ratio"] < 0.1
    assert in_order["variance_ratio"] > 20


@pytest.mark.parametrize("window_rows", [512, 4096, 12_000, 2**20])
def test_predicted_and_measured_variance_agree(store: ActivationStore, window_rows: int) -> None:
    """The quick version of benchmarks/mixing.py: same measurement of the rows themselves, fixed seeds."""
    found = BENCHMARK["measure"](store, window_rows, 100, n_seeds=12)
    print(f"window of {window_rows}: predicted {found.predicted:.3f}, measured {found.measured:.3f}")
    assert found.measured == pytest.approx(found.predicted, rel=0.1)


def test_the_clock_counts_every_window_that_batches_are_served_from(store: ActivationStore) -> None:
    with Batches(store, SITE, batch_size=64, window_rows=512, filters=ALL_ROWS, threads=2) as batches:
        n_steps = batches.n_rows // 64
        batches.batch(0)
        before = batches.clock.totals()
        for step in range(1, n_steps):
            batches.batch(step)
        totals = batches.clock.totals()
    row_bytes = store.plan.bytes_per_row(SITE)
    assert (n_steps * 64 - 512) * row_bytes <= totals.n_bytes <= 2 * batches.n_rows * row_bytes
    assert 0 < totals.fill_seconds <= totals.thread_seconds
    assert 0 < totals.decode_seconds <= totals.thread_seconds
    assert 0 <= totals.since(before).wait_seconds <= totals.wait_seconds
    assert totals.waits <= n_steps
