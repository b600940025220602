"""Shuffled stores: every row still there and still itself, and its neighbours those of a perfect shuffle."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from strata_sae.stores import ActivationStore, StoreError, verify
from strata_sae.stores.deriving.shuffle import shuffle_store
from strata_sae.stores.deriving.slice import slice_store
from strata_sae.stores.format.plan import TOKEN_FIELDS
from support.killed_deriving import Counting, contents, killed_at

SITES = {"blocks.0.hook_resid_post": 8, "blocks.1.mlp.hook_post": 4}
N_ROWS = 12000
BUCKET_ROWS = 1024
N_KILLS = int(os.environ.get("STRATA_DERIVING_KILLS", "5"))


@pytest.fixture
def source(make_store: Callable[..., Path]) -> ActivationStore:
    return ActivationStore.open(make_store("source", n_rows=N_ROWS, sites=SITES, shard_bytes=65536))


def shuffled(source: ActivationStore, out: Path, seed: int = 0) -> ActivationStore:
    return shuffle_store(source, out, seed=seed, bucket_rows=BUCKET_ROWS)


def original_rows(store: ActivationStore) -> np.ndarray:
    """Where in the source each row lay: its token map says so."""
    return store.token_map("document", 0, N_ROWS) * 37 + store.token_map("position", 0, N_ROWS)


def documents_per_stretch(store: ActivationStore, n_rows: int = 512) -> float:
    """Mean number of documents in consecutive rows of the training split."""
    document_N = store.token_map("document", *store.plan.splits["train"])
    return float(np.mean([len(set(document_N[at : at + n_rows].tolist())) for at in range(0, 10000, n_rows)]))


@pytest.mark.parametrize("encoding", ["float32", "int8"])
def test_every_row_is_there_once_and_leads_to_its_token(source: ActivationStore, tmp_path: Path, encoding: str) -> None:
    if encoding == "int8":
        source = slice_store(source, tmp_path / "int8", encoding="int8")
    found = shuffled(source, tmp_path / "shuffled")
    assert verify(found.path, deep=True) == []
    rows_N = original_rows(found)
    assert sorted(rows_N.tolist()) == list(range(N_ROWS))
    for site in SITES:
        np.testing.assert_array_equal(found.rows(site, 0, N_ROWS), source.rows(site, 0, N_ROWS)[rows_N])
        np.testing.assert_array_equal(found.norms(site, 0, N_ROWS), source.norms(site, 0, N_ROWS)[rows_N])
    for field in TOKEN_FIELDS:
        np.testing.assert_array_equal(found.token_map(field, 0, N_ROWS), source.token_map(field, 0, N_ROWS)[rows_N])
    for first, last in source.plan.splits.values():
        assert set(rows_N[first:last].tolist()) == set(range(first, last)), "a row left its split"
    assert found.plan.order_id == found.plan.id
    assert found.plan.lineage is not None
    assert found.plan.lineage.kind == "shuffle"


def test_neighbours_are_those_of_a_perfect_shuffle(source: ActivationStore, tmp_path: Path) -> None:
    found = shuffled(source, tmp_path / "shuffled")
    n_train = source.plan.splits["train"][1]
    perfect = np.random.default_rng(0).permutation(np.arange(n_train) // 37)
    expected = np.mean([len(set(perfect[at : at + 512].tolist())) for at in range(0, 10000, 512)])
    assert documents_per_stretch(found) == pytest.approx(expected, rel=0.03)
    assert documents_per_stretch(source) < 0.1 * expected, "control: the source is not mixed"
    for store, limit in ((found, 0.05), (source, None)):
        order_N = original_rows(store)[:n_train]
        along = np.corrcoef(order_N[:-1], order_N[1:])[0, 1], np.corrcoef(order_N, np.arange(n_train))[0, 1]
        assert max(map(abs, along)) < limit if limit else min(along) > 0.99


def test_the_order_is_a_function_of_the_seed(source: ActivationStore, tmp_path: Path) -> None:
    first, again, other = (shuffled(source, tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert contents(first.path) == contents(again.path)
    assert (original_rows(first) != original_rows(other)).mean() > 0.99
    zipped = shuffled(slice_store(source, tmp_path / "zstd", compressor="zstd"), tmp_path / "d")
    np.testing.assert_array_equal(original_rows(zipped), original_rows(first))


def test_memory_holds_a_bucket_whatever_is_held_while_reading(
    source: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(shuffled(source, tmp_path / "a").path)
    monkeypatch.setattr("strata_sae.stores.deriving.shuffle._HELD_BYTES", 1)
    largest = []
    fromfile = np.fromfile
    monkeypatch.setattr(np, "fromfile", lambda *args: largest.append(len(fromfile(*args))) or fromfile(*args))
    assert contents(shuffled(source, tmp_path / "b").path) == expected
    assert max(largest) < 1.25 * BUCKET_ROWS


def test_a_killed_shuffle_is_made_again_with_the_same_bytes(source: ActivationStore, tmp_path: Path) -> None:
    small = slice_store(source, tmp_path / "small", rows=(9000, 12000))
    counting = Counting()
    shuffle_store(small, tmp_path / "undisturbed", seed=3, bucket_rows=BUCKET_ROWS, files=counting)
    expected = contents(tmp_path / "undisturbed")
    out = tmp_path / "killed"

    def make(files: Counting) -> None:
        shuffle_store(small, out, seed=3, bucket_rows=BUCKET_ROWS, files=files)

    for _ in killed_at(make, counting.steps, N_KILLS):
        make(Counting())
        assert contents(out) == expected
        assert not list(tmp_path.glob(".*")), "a dead worker's folder stayed"
        shutil.rmtree(out)


def test_a_small_disk_is_found_first(source: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=500_000))
    with pytest.raises(StoreError, match=r"needs [\d,]+ more bytes"):
        shuffled(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
