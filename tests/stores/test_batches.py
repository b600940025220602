"""Batches are a pure function of the step: every row once an epoch, in an order that nothing but the plan decides."""

import random
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from strata_sae.stores import ActivationStore, Batches, Filters, StoreError
from strata_sae.stores.format.records import Lineage
from strata_sae.stores.reading.masks import permutation
from strata_sae.stores.serving.batches import StreamOptions, StreamSettings
from strata_sae.stores.serving.mixing import predicted_variance_ratio
from support.closing import blocks_begun_after_close
from support.small_store import DOCUMENT_ROWS, build_store, stored_rows, token_map

SITES = {"blocks.0.hook_resid_post": 4, "blocks.1.hook_resid_post": 8}
SITE = "blocks.1.hook_resid_post"
N_ROWS = 900
ROWS_PER_CHUNK = 64
_FILTERS = st.builds(Filters, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([None, 0.99, 1.3, 100.0]))


@pytest.fixture(scope="module", params=["none", "zstd"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    path = tmp_path_factory.mktemp("batches") / "store"
    return ActivationStore.open(build_store(path, N_ROWS, SITES, compressor=request.param))


@pytest.fixture(scope="module")
def sized_stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, ActivationStore]:
    """Stores of awkward sizes around the edges of chunks and units."""
    folder = tmp_path_factory.mktemp("sized")
    return {n: ActivationStore.open(build_store(folder / str(n), n, SITES)) for n in (1, 63, 64, 65, 333, 641)}


def passing(store: ActivationStore, site: str, split: str, filters: Filters) -> np.ndarray:
    """Rows that pass, one at a time: the mask's brute-force twin."""
    flags = token_map(store.plan.n_rows)["flags"]
    dropped = {1: filters.drop_bos, 2: filters.drop_special, 4: filters.drop_template}
    median = store.statistics(site)["content"].get("norm_quantiles", {}).get("0.5", 0.0)
    norms = store.norms(site, 0, store.plan.n_rows)
    rows = []
    for row in range(*store.plan.splits[split]):
        if any(drop and flags[row] & bit for bit, drop in dropped.items()):
            continue
        if filters.max_norm_multiple is None or norms[row] <= filters.max_norm_multiple * median:
            rows.append(row)
    return np.array(rows, np.int64)


def serve(store: ActivationStore, steps: range | list[int], site: str = SITE, **options: Any) -> list[np.ndarray]:
    """Row numbers of some steps; checks that the rows are those of these numbers."""
    expected_NM = stored_rows(site, store.plan.n_rows, store.plan.sites[site])
    numbers = []
    with Batches(store, site, **options) as batches:
        for step in steps:
            rows_BM, numbers_B = batches.batch(step)
            assert rows_BM.tobytes() == expected_NM[numbers_B].tobytes()
            numbers.append(numbers_B.copy())
    return numbers


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.data())
def test_every_row_once_an_epoch(sized_stores: dict[int, ActivationStore], data: st.DataObject) -> None:
    store = sized_stores[data.draw(st.sampled_from(sorted(sized_stores)))]
    split, filters = data.draw(st.sampled_from(["train", "heldout"])), data.draw(_FILTERS)
    if filters.max_norm_multiple is not None and store.statistics(SITE)["content"]["count"] == 0:
        return
    expected = passing(store, SITE, split, filters)
    if len(expected) == 0:
        with pytest.raises(StoreError, match="1 rows"):
            Batches(store, SITE, split=split, filters=filters, batch_size=1)
        return
    batch_size = data.draw(st.integers(1, len(expected)))
    window_rows = data.draw(st.integers(1, 800))
    n_epochs = 3 if batch_size > 8 else 1
    steps = range(-(-n_epochs * len(expected) // batch_size))
    options: dict[str, Any] = {"split": split, "filters": filters, "batch_size": batch_size}
    served = np.concatenate(serve(store, steps, window_rows=window_rows, seed=data.draw(st.integers(0, 9)), **options))
    for epoch in range(n_epochs):
        numbers = served[epoch * len(expected) : (epoch + 1) * len(expected)]
        np.testing.assert_array_equal(np.sort(numbers), expected)
    in_order = list(store.in_order(SITE, split, filters, batch_size))
    np.testing.assert_array_equal(np.concatenate([numbers for _, numbers in in_order]), expected)
    rows_NM = stored_rows(SITE, store.plan.n_rows, SITES[SITE])[expected]
    assert np.concatenate([rows for rows, _ in in_order]).tobytes() == rows_NM.tobytes()
    assert {len(rows) for rows, _ in in_order[:-1]} <= {batch_size}


OPTIONS: dict[str, Any] = {"filters": Filters(drop_bos=True), "batch_size": 50, "window_rows": 200, "seed": 3}


def test_options_are_the_fields_of_the_settings_and_override_them(store: ActivationStore) -> None:
    assert get_type_hints(StreamOptions) == get_type_hints(StreamSettings)
    settings_ = StreamSettings(**OPTIONS)
    with Batches(store, SITE, settings_) as batches, Batches(store, SITE, settings_, seed=4) as other:
        assert (batches.settings, other.settings.seed) == (settings_, 4)
        (numbers_B,) = serve(store, [1], **OPTIONS)
        assert batches.batch(1)[1].tolist() == numbers_B.tolist()
        assert other.batch(1)[1].tolist() != numbers_B.tolist(), "control"


def test_batch_is_a_pure_function_of_the_step(store: ActivationStore) -> None:
    reference = serve(store, range(60), threads=1, **OPTIONS)
    rng = random.Random(0)
    for threads in (1, 2, 4):
        steps = [rng.randrange(60) for _ in range(80)]
        for step, numbers in zip(steps, serve(store, steps, threads=threads, **OPTIONS), strict=True):
            np.testing.assert_array_equal(numbers, reference[step])
    backwards = serve(store, list(range(59, -1, -1)), threads=2, **OPTIONS)
    np.testing.assert_array_equal(backwards[::-1], reference)
    for step in rng.sample(range(60), 12):
        np.testing.assert_array_equal(serve(store, [step], **OPTIONS)[0], reference[step])


def test_a_resumed_trainer_sees_the_same_rows_after_prefetch(store: ActivationStore) -> None:
    reference = serve(store, range(40), **OPTIONS)
    expected_NM = stored_rows(SITE, N_ROWS, SITES[SITE])
    with Batches(store, SITE, **OPTIONS) as batches:
        for step in (0, 1, 30, 31, 2, 0, 17, 39, 38, 5):
            rows_BM, numbers_B = batches.batch(step)
            kept = rows_BM.copy(), numbers_B.copy()
            for window in batches._windows._pending:  # type: ignore[attr-defined]
                if window is not None:
                    window.result()  # the next window is full by now
            np.testing.assert_array_equal(rows_BM, kept[0])
            np.testing.assert_array_equal(numbers_B, kept[1])
            np.testing.assert_array_equal(numbers_B, reference[step])
            np.testing.assert_array_equal(rows_BM, expected_NM[numbers_B])


def test_batches_straddle_windows_and_epochs(store: ActivationStore) -> None:
    with Batches(store, SITE, **OPTIONS) as batches:
        n_rows, window_rows = batches.n_rows, batches.blocks_per_window * ROWS_PER_CHUNK
    assert n_rows % 50
    assert window_rows % 50
    last = n_rows // 50
    numbers = np.concatenate(serve(store, range(2 * last + 1), **OPTIONS))
    assert len(set(numbers[:n_rows].tolist())) == n_rows
    assert numbers[:n_rows].tolist() != numbers[n_rows : 2 * n_rows].tolist()
    whole = serve(store, [last], **OPTIONS)[0]
    np.testing.assert_array_equal(whole, numbers[last * 50 : (last + 1) * 50])


GOLDEN_SMALL = [6, 9, 5, 7, 1, 2, 8, 10, 11, 3, 0, 4]
GOLDEN_LARGE = [982, 15, 829, 217, 985, 234, 210, 762]
GOLDEN_PLAN = "d75c92470f7389c1868f8deeac1eabc9f0afb4bb87d6c04b574edc7d60e18f4b"
GOLDEN_BATCHES = [
    [328, 350, 120, 404, 224, 341, 73, 249],
    [250, 357, 326, 327, 72, 355, 386, 433],
    [734, 49, 650, 36, 665, 658, 61, 454],
]


def test_the_order_is_that_of_every_machine() -> None:
    """Pinned: if this changes, nobody can resume or repeat a training of before."""
    assert permutation(["strata", 1], 12).tolist() == GOLDEN_SMALL
    assert permutation({"seed": 7}, 1000)[:8].tolist() == GOLDEN_LARGE
    assert permutation([], 0).tolist() == []
    assert permutation([], 1).tolist() == [0]


def test_golden_batches(tmp_path: Path) -> None:
    """Of a store of version 2 that serves the rows of one of version 1: the order is that of the first's plan."""
    lineage = Lineage("slice", "", "", GOLDEN_PLAN, (0, N_ROWS))
    store = ActivationStore.open(build_store(tmp_path / "store", N_ROWS, SITES, lineage=lineage))
    batches = serve(store, [0, 1, 40], batch_size=8, window_rows=256, seed=1)
    assert [numbers.tolist() for numbers in batches] == GOLDEN_BATCHES


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 3000), st.integers(0, 2**31))
def test_permutation_is_one(n: int, seed: int) -> None:
    np.testing.assert_array_equal(np.sort(permutation([seed], n)), np.arange(n))


def test_permutations_are_uniform() -> None:
    counts = np.zeros((5, 5))
    for seed in range(4000):
        counts[np.arange(5), permutation([seed], 5)] += 1
    assert np.abs(counts / 4000 - 0.2).max() < 0.025  # four standard deviations


def test_all_sites_serve_the_same_rows_and_seeds_differ(store: ActivationStore) -> None:
    first, second = (serve(store, range(20), site=site, **OPTIONS) for site in SITES)
    np.testing.assert_array_equal(first, second)
    other = serve(store, range(20), **OPTIONS | {"seed": 4})
    assert not any(np.array_equal(one, two) for one, two in zip(second, other, strict=True))


def test_a_batch_larger_than_the_split_names_both_numbers(store: ActivationStore) -> None:
    n_rows = len(passing(store, SITE, "heldout", Filters(drop_bos=True)))
    with pytest.raises(StoreError, match=f"batch of {n_rows + 1} rows.*{n_rows} rows"):
        Batches(store, SITE, split="heldout", filters=Filters(drop_bos=True), batch_size=n_rows + 1)
    with pytest.raises(StoreError, match="heldout, train"):
        Batches(store, SITE, split="test", batch_size=1)
    with pytest.raises(StoreError, match=r"blocks\.0\.hook_resid_post"):
        Batches(store, "blocks.9.hook_resid_post", batch_size=1)


def test_closing_early_fills_no_window_and_leaves_no_thread(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store", 20_000, {SITE: 256}, chunk_bytes=65536, shard_bytes=2**24, compressor="zstd")
    store = ActivationStore.open(path)
    for threads in (1, 2, 4):
        before = threading.active_count()
        batches = Batches(store, SITE, batch_size=64, window_rows=8192, threads=threads)
        assert blocks_begun_after_close(batches) <= threads < batches.blocks_per_window // 2
        assert threading.active_count() == before
        with pytest.raises((RuntimeError, CancelledError)):  # never a half-filled window
            [batches.batch(step) for step in range(batches.n_rows // 64)]
    untold = Batches(store, SITE, batch_size=64, window_rows=8192, threads=1)
    assert blocks_begun_after_close(untold, stops=False) > untold.blocks_per_window // 2, "control: it fills to the end"


def documents(n_rows: int) -> np.ndarray:
    return np.append(np.arange(0, n_rows, DOCUMENT_ROWS), n_rows)


def mean_square(numbers_B: np.ndarray) -> float:
    """E[(batch mean)^2] of a signal that is drawn once for each document, with unit variance: exact, not sampled."""
    rows_per_document = np.bincount(numbers_B // DOCUMENT_ROWS)
    return float(np.square(rows_per_document).sum()) / len(numbers_B) ** 2


@pytest.mark.parametrize("window_blocks", [3, 8, 40])
def test_the_predicted_variance_is_the_measured_one(tmp_path: Path, window_blocks: int) -> None:
    n_rows, batch_size = 30_000, 32
    path = build_store(tmp_path / "store", n_rows, {SITE: 1}, chunk_bytes=4 * 128, shard_bytes=2**20)
    store = ActivationStore.open(path)
    stop = store.plan.splits["train"][1]
    assert store.plan.rows_per_chunk == 128
    served, shuffled = [], []
    rng = np.random.default_rng(0)
    for seed in range(8):
        with Batches(store, SITE, batch_size=batch_size, window_rows=128 * window_blocks, seed=seed) as batches:
            served += [mean_square(batches.batch(step)[1]) for step in range(stop // batch_size)]
        perfect = rng.permutation(stop)
        shuffled += [
            mean_square(perfect[first : first + batch_size]) for first in range(0, stop - batch_size, batch_size)
        ]
    measured = float(np.mean(served) / np.mean(shuffled))
    predicted = predicted_variance_ratio(documents(stop), 128, window_blocks, batch_size)
    print(f"window of {window_blocks} blocks: predicted {predicted:.3f}, measured {measured:.3f} of a perfect shuffle")
    assert abs(measured / predicted - 1) < 0.1  # the prediction leaves out batches that straddle two windows


def test_a_window_over_everything_is_a_perfect_shuffle() -> None:
    starts = documents(5000)
    assert predicted_variance_ratio(starts, 64, 10**6, 256) == pytest.approx(1)
    assert predicted_variance_ratio(starts, 64, 1, 256) > 5
    alone = np.arange(5001)  # every document is one row: order cannot matter
    assert predicted_variance_ratio(alone, 64, 1, 32) == pytest.approx(1, abs=0.02)
