"""Means over documents are those of a loop over rows, for every encoding, split and filter, and shuffled rows, too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import strata_sae.stores.front.pooling as module
from strata_sae.stores import ActivationStore, Filters, StoreError, pool, shuffle_store, slice_store, write_store
from support.small_store import build_store

SITE = "blocks.1.hook_resid_post"
FILTERS = {"all": Filters(), "no BOS": Filters(drop_bos=True), "no long rows": Filters(max_norm_multiple=3.0)}


def by_loops(store: ActivationStore, split: str | None, filters: Filters) -> dict[int, tuple[int, np.ndarray]]:
    """Document -> (rows, mean in float64), a row at a time; norms and median from their definition."""
    norms, flags, documents = (
        store.norms(SITE, 0, store.plan.n_rows),
        store.token_map("flags", 0, store.plan.n_rows),
        store.token_map("document", 0, store.plan.n_rows),
    )
    limit = np.inf
    if filters.max_norm_multiple is not None:
        limit = filters.max_norm_multiple * float(np.median(norms[flags == 0]))
    rows: dict[int, list[np.ndarray]] = {}
    start, stop = (0, store.plan.n_rows) if split is None else store.plan.splits[split]
    for row in range(start, stop):
        if norms[row] <= limit and not (filters.drop_bos and flags[row] & 1):
            rows.setdefault(int(documents[row]), []).append(store.float_rows(SITE, row, row + 1)[0].astype(np.float64))
    return {document: (len(some), np.sum(some, axis=0) / len(some)) for document, some in sorted(rows.items())}


def compare(store: ActivationStore, split: str | None, filters: Filters) -> int:
    expected, found = by_loops(store, split, filters), pool(store, SITE, split, filters)
    assert found.document.tolist() == list(expected)
    assert found.n_rows.tolist() == [n for n, _ in expected.values()]
    assert (found.document.dtype, found.n_rows.dtype, found.mean.dtype) == (np.int64, np.int64, np.float32)
    means = np.array([mean for _, mean in expected.values()])
    np.testing.assert_allclose(found.mean, means, rtol=6e-8, atol=1e-12)  # half a unit in a float32's last place
    assert not np.allclose(np.roll(found.mean, 1, axis=0), means, rtol=1e-3), "the control: means of other documents"
    return int(found.n_rows.sum())


@pytest.mark.parametrize("encoding", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("split", ["train", "heldout", None])
@pytest.mark.parametrize("filters", FILTERS)
def test_means_are_those_of_a_loop(
    encoding: str, split: str | None, filters: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH_ROWS", 100)  # documents of 37 rows go on in the next batch
    store = ActivationStore.open(build_store(tmp_path / "s", 1000, {SITE: 16}, encoding=encoding))
    n_rows = compare(store, split, FILTERS[filters])
    everything = store.plan.n_rows if split is None else int(np.diff(store.plan.splits[split])[0])
    assert n_rows == everything if filters == "all" else 0 < n_rows < everything


def test_the_size_of_batches_changes_no_bit_of_sums_that_are_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    rows_NM = generator.integers(-1000, 1000, (700, 8)).astype(np.float32)
    document_N = np.repeat(np.arange(70), 10)
    store = write_store(tmp_path / "s", {SITE: rows_NM}, tokens={"document": document_N})
    expected = rows_NM.astype(np.float64).reshape(70, 10, 8).mean(1).astype(np.float32)
    for batch_rows in (1, 7, 64, 4096):
        monkeypatch.setattr(module, "_BATCH_ROWS", batch_rows)
        assert np.array_equal(pool(store, SITE).mean, expected)


def test_shuffled_and_sliced_stores_give_the_means_of_their_rows(tmp_path: Path) -> None:
    store = ActivationStore.open(build_store(tmp_path / "s", 1000, {SITE: 16}))
    shuffle_store(store, tmp_path / "shuffled", seed=0)
    shuffled = ActivationStore.open(tmp_path / "shuffled")
    assert not np.array_equal(
        shuffled.token_map("document", 0, 900), np.sort(shuffled.token_map("document", 0, 900))
    ), "rows of a document are not side by side"
    for split in ("train", "heldout"):
        compare(shuffled, split, Filters(drop_bos=True))
        one, other = pool(store, SITE, split), pool(shuffled, SITE, split)
        assert np.array_equal(one.document, other.document)
        np.testing.assert_allclose(one.mean, other.mean, rtol=6e-7)
    slice_store(store, tmp_path / "part", rows=(64, 512))
    compare(ActivationStore.open(tmp_path / "part"), None, Filters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("blocks.9.hook_resid_post",), r"has no site 'blocks\.9\.hook_resid_post'; it holds blocks\.1"),
        ((SITE, "test"), "split 'test' is unknown; this store has heldout, train"),
        ((SITE, None, Filters(max_norm_multiple=1e-9)), "no row of heldout, train passes the filters"),
    ],
)
def test_what_cannot_be_pooled_is_refused(arguments: tuple[Any, ...], message: str, tmp_path: Path) -> None:
    store = ActivationStore.open(build_store(tmp_path / "s", 300, {SITE: 16}))
    with pytest.raises(StoreError, match=message):
        pool(store, *arguments)
