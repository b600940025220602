"""Slices: what is kept is kept exactly, the order of batches with it, and a kill changes no byte."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from strata_sae.stores import ActivationStore, Batches, Filters, StoreError, verify
from strata_sae.stores.deriving.slice import slice_store
from strata_sae.stores.format.plan import TOKEN_FIELDS
from strata_sae.stores.format.records import Lineage
from strata_sae.stores.front.aligned import aligned
from support.killed_deriving import Counting, contents, killed_at

SITES = {"blocks.0.hook_resid_post": 16, "blocks.1.mlp.hook_post": 8}
SITE, OTHER = SITES
N_ROWS = 1500
N_KILLS = int(os.environ.get("STRATA_DERIVING_KILLS", "6"))


@pytest.fixture
def source(make_store: Callable[..., Path]) -> ActivationStore:
    return ActivationStore.open(make_store("source", n_rows=N_ROWS, sites=SITES, encoding="bfloat16"))


def numbers(store: ActivationStore, n_steps: int) -> np.ndarray:
    with Batches(store, SITE, filters=Filters(drop_bos=True), batch_size=64, window_rows=256) as batches:
        return np.stack([batches.batch(step)[1].copy() for step in range(n_steps)])


def test_a_slice_of_rows_holds_them_and_their_tokens(source: ActivationStore, tmp_path: Path) -> None:
    start, stop = 130, 1433
    found = slice_store(source, tmp_path / "slice", rows=(start, stop), sites=[OTHER])
    assert verify(found.path, deep=True) == []
    assert found.plan.sites == {OTHER: SITES[OTHER]}
    assert found.plan.lineage == Lineage("slice", source.id, source.plan.id, "", (start, stop))
    n_rows = stop - start
    np.testing.assert_array_equal(found.rows(OTHER, 0, n_rows), source.rows(OTHER, start, stop))
    np.testing.assert_array_equal(found.norms(OTHER, 0, n_rows), source.norms(OTHER, start, stop))
    for field in TOKEN_FIELDS:
        np.testing.assert_array_equal(found.token_map(field, 0, n_rows), source.token_map(field, start, stop))
    for split, (first, last) in source.plan.splits.items():
        a, b = found.plan.splits[split]
        assert (a + start, b + start) == (max(first, start), min(last, stop))
    words = found.token_map("token_id", 0, n_rows).tolist()
    assert found.vocabulary == {word: source.vocabulary[word] for word in set(words)}
    assert found.plan.n_documents == len(set(found.token_map("document", 0, n_rows).tolist()))
    rows = found.float_rows(OTHER, 0, n_rows).astype(np.float64)
    np.testing.assert_allclose(found.statistics(OTHER)["all"]["mean"], rows.mean(axis=0), rtol=1e-12)


def test_a_slice_of_one_split_has_an_empty_other_one(source: ActivationStore, tmp_path: Path) -> None:
    first, last = source.plan.splits["heldout"]
    found = slice_store(source, tmp_path / "heldout", rows=(first, last))
    assert found.plan.splits == {"train": (0, 0), "heldout": (0, last - first)}


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8"])
def test_another_encoding_serves_the_same_rows_in_the_same_order(
    source: ActivationStore, tmp_path: Path, encoding: str
) -> None:
    found = slice_store(source, tmp_path / encoding, encoding=encoding)
    assert verify(found.path, deep=True) == []
    assert found.plan.order_id == source.plan.id
    np.testing.assert_array_equal(numbers(found, 30), numbers(source, 30))
    np.testing.assert_array_equal(found.norms(SITE, 0, N_ROWS), source.norms(SITE, 0, N_ROWS))
    filters = Filters(drop_bos=True, max_norm_multiple=1.5)
    assert found.mask(SITE, "train", filters).n_rows == source.mask(SITE, "train", filters).n_rows
    error = found.float_rows(SITE, 0, N_ROWS) - source.float_rows(SITE, 0, N_ROWS)
    variance = source.float_rows(SITE, 0, N_ROWS).var()
    assert (error**2).mean() / variance < (1e-3 if encoding == "int8" else 1e-9)
    again = slice_store(found, tmp_path / "again", rows=(0, 700))
    assert numbers(again, 3).tolist() != numbers(source, 3).tolist(), "control: other rows have an order of their own"


def test_a_lossless_compressor_changes_no_bit(source: ActivationStore, tmp_path: Path) -> None:
    found = slice_store(source, tmp_path / "planes", compressor="planes")
    back = slice_store(found, tmp_path / "back", compressor="none")
    for site in SITES:
        np.testing.assert_array_equal(back.rows(site, 0, N_ROWS), source.rows(site, 0, N_ROWS))
    assert aligned(back.plan, source.plan) is None, "the same order and the same token map, byte for byte"
    assert slice_store(found, tmp_path / "wide", encoding="float32").plan.compressor == "zstd"


def test_int8_is_copied_and_not_quantised_again(source: ActivationStore, tmp_path: Path) -> None:
    parent = slice_store(source, tmp_path / "int8", encoding="int8")
    child = slice_store(parent, tmp_path / "child", rows=(100, 1400))
    for got, expected in zip(child.coded_rows(SITE, 0, 1300), parent.coded_rows(SITE, 100, 1400), strict=True):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(child.float_rows(SITE, 0, 1300), parent.float_rows(SITE, 100, 1400))
    fresh = slice_store(source, tmp_path / "fresh", rows=(100, 1400), encoding="int8")
    assert not (fresh.columns(SITE).scale == parent.columns(SITE).scale).all(), "control: other rows, other columns"


@pytest.mark.parametrize("options", [{"rows": (100, 1400)}, {"encoding": "int8"}], ids=["rows", "int8"])
def test_a_killed_slice_goes_on_and_leaves_the_same_bytes(
    source: ActivationStore, tmp_path: Path, options: dict[str, object]
) -> None:
    counting = Counting()
    slice_store(source, tmp_path / "undisturbed", files=counting, **options)
    expected = contents(tmp_path / "undisturbed")
    out = tmp_path / "killed"
    unfinished = 0
    for _ in killed_at(lambda files: slice_store(source, out, files=files, **options), counting.steps, N_KILLS):
        unfinished += not (out / "MANIFEST.json").exists()
        slice_store(source, out, **options)
        assert contents(out) == expected
        assert not list(tmp_path.glob(".*"))
        shutil.rmtree(out)
    assert unfinished > N_KILLS // 2


def test_what_cannot_be_sliced_says_why(
    source: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match=r"no site \['nowhere'\]; it holds blocks\.0"):
        slice_store(source, tmp_path / "out", sites=["nowhere"])
    with pytest.raises(StoreError, match=r"rows 10:2000 are not in .*, which has rows 0:1500"):
        slice_store(source, tmp_path / "out", rows=(10, 2000))
    slice_store(source, tmp_path / "out", sites=[SITE])
    with pytest.raises(StoreError, match=r"holds the store of another plan \(other sites\)"):
        slice_store(source, tmp_path / "out", sites=[OTHER])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StoreError, match=r"needs [\d,]+ more bytes and its disk has 1,000 free"):
        slice_store(source, tmp_path / "more")
