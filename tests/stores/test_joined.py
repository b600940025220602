"""Sites read side by side hold the same rows, whatever the filters; the mask is part of the order's name."""

from pathlib import Path

import numpy as np
import pytest

from strata_sae.stores import ActivationStore, Batches, Filters, StoreError
from strata_sae.stores.serving.batches import JoinedBatches, Sites, joined_in_order, joint_mask
from support.small_store import build_store, stored_rows

WIDTHS = {"a": 4, "bb": 8}
N_ROWS = 900
LIMIT = Filters(drop_bos=True, max_norm_multiple=1.2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return ActivationStore.open(build_store(tmp_path_factory.mktemp("joined") / "store", N_ROWS, WIDTHS))


def both(store: ActivationStore) -> Sites:
    return [(store, site) for site in WIDTHS]


def masked(mask) -> np.ndarray:
    """Row numbers of a mask, of blocks of 64."""
    return np.concatenate([mask.rows_in(block) + 64 * block for block in mask.blocks.tolist()])


@pytest.mark.parametrize("filters", [Filters(), Filters(drop_bos=True), LIMIT])
def test_every_batch_holds_the_same_rows_of_every_site(store: ActivationStore, filters: Filters) -> None:
    allowed = set(masked(joint_mask(both(store), "train", filters)).tolist())
    with JoinedBatches(both(store), filters=filters, seed=3, batch_size=50, window_rows=256) as batches:
        seen = []
        for step in range(2 * batches.n_rows // 50):
            parts, numbers = batches.batch(step)
            for (site, width), rows in zip(WIDTHS.items(), parts, strict=True):
                np.testing.assert_array_equal(rows, stored_rows(site, N_ROWS, width)[numbers])
            seen += numbers.tolist()
        assert set(seen[: batches.n_rows]) == allowed
        assert len(allowed) == batches.n_rows
        first = [part.copy() for part in batches.batch(0)[0]]
    with JoinedBatches(both(store)[::-1], filters=filters, seed=3, batch_size=50, window_rows=256) as again:
        for mine, other in zip(first, reversed(again.batch(0)[0]), strict=True):
            np.testing.assert_array_equal(mine, other)  # the order of the sites decides nothing


def test_without_a_norm_limit_the_rows_are_those_of_each_site_alone(store: ActivationStore) -> None:
    with JoinedBatches(both(store), seed=1, batch_size=64, window_rows=256) as batches:
        numbers = batches.batch(7)[1].copy()
    for site in WIDTHS:
        with Batches(store, site, seed=1, batch_size=64, window_rows=256) as alone:
            np.testing.assert_array_equal(numbers, alone.batch(7)[1])


def test_a_norm_limit_of_either_site_leaves_a_row_out(store: ActivationStore) -> None:
    own = [set(masked(store.mask(site, "train", LIMIT)).tolist()) for site in WIDTHS]
    joint = joint_mask(both(store), "train", LIMIT)
    assert set(masked(joint).tolist()) == own[0] & own[1]
    assert joint.n_rows == len(own[0] & own[1]) == joint.counts.sum() < min(map(len, own))
    assert joint.limited_by == ("a", "bb")
    assert joint_mask(both(store), "train", Filters()).limited_by == ()


def test_the_sites_that_limit_are_part_of_the_orders_name(store: ActivationStore, tmp_path: Path) -> None:
    """Shared windows of a site under its own mask are not those of the same site under a joint one."""
    shared = {"filters": LIMIT, "seed": 0, "batch_size": 32, "window_rows": 256, "shared": tmp_path}
    with Batches(store, "a", **shared) as alone, JoinedBatches(both(store), **shared) as batches:
        assert alone._key != batches.streams[0]._key
        parts, numbers = batches.batch(0)
        np.testing.assert_array_equal(parts[0], stored_rows("a", N_ROWS, 4)[numbers])
        alone.batch(0)
        parts, numbers = batches.batch(1)
        np.testing.assert_array_equal(parts[1], stored_rows("bb", N_ROWS, 8)[numbers])


def test_a_site_that_is_not_there_leaves_no_thread_behind(store: ActivationStore, monkeypatch) -> None:
    closed = []
    monkeypatch.setattr(Batches, "close", lambda self, real=Batches.close: (closed.append(self), real(self)))
    with pytest.raises(StoreError, match="no site 'nowhere'"):
        JoinedBatches([(store, "a"), (store, "nowhere")], batch_size=8)
    assert len(closed) == 1


@pytest.mark.parametrize("filters", [Filters(drop_bos=True), LIMIT])
def test_in_order_every_row_that_passes_comes_once_with_all_sites(store: ActivationStore, filters: Filters) -> None:
    found = []
    for parts, numbers in joined_in_order(both(store), "heldout", filters, 32):
        for (site, width), rows in zip(WIDTHS.items(), parts, strict=True):
            np.testing.assert_array_equal(rows, stored_rows(site, N_ROWS, width)[numbers])
        found += numbers.tolist()
    assert found == masked(joint_mask(both(store), "heldout", filters)).tolist()


def test_mean_square_norm_is_of_the_joint_mask(store: ActivationStore) -> None:
    mask = joint_mask(both(store), "train", LIMIT)
    rows = stored_rows("a", N_ROWS, 4)[masked(mask)]
    expected = np.square(rows, dtype=np.float64).sum(axis=1).mean()
    assert store.mean_square_norm("a", "train", LIMIT, mask) == pytest.approx(expected, rel=1e-6)
    assert store.mean_square_norm("a", "train", LIMIT) != pytest.approx(expected, rel=1e-6)
