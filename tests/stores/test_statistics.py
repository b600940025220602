"""Statistics are those of a brute-force computation in float64, for every encoding and any division into units."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strata_sae.stores import ActivationStore, Filters, StoreError
from strata_sae.stores.format.encodings import CODECS, to_float32
from support.small_store import build_store, stored_rows, token_map

SITE = "blocks.1.hook_resid_post"
N_ROWS = 1000


def wide_rows(encoding: str) -> np.ndarray:
    """Rows before they were encoded: what norms are of."""
    return to_float32(stored_rows(SITE, N_ROWS, 16, encoding)).astype(np.float64)


def assert_equal_to_brute_force(found: dict[str, Any], rows_NM: np.ndarray, norms_N: np.ndarray) -> None:
    """Moments are of the rows as they are read, norm quantiles of the rows as they were captured."""
    assert found["count"] == len(rows_NM)
    np.testing.assert_allclose(found["mean"], rows_NM.mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found["std"], rows_NM.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found["mean_square_norm"], (rows_NM**2).sum(axis=1).mean(), rtol=1e-12)
    for quantile, value in found["norm_quantiles"].items():
        exact = np.quantile(norms_N, float(quantile), method="inverted_cdf")
        assert abs(value / exact - 1) < 0.008, f"quantile {quantile}: {value} instead of {exact}"


@pytest.mark.parametrize("encoding", CODECS)
def test_statistics_equal_brute_force(tmp_path: Path, encoding: str) -> None:
    store = ActivationStore.open(build_store(tmp_path / "store", N_ROWS, encoding=encoding))
    rows_NM, content_N = to_float32(store.rows(SITE, 0, N_ROWS)).astype(np.float64), token_map(N_ROWS)["flags"] == 0
    norms_N = np.sqrt((wide_rows(encoding) ** 2).sum(axis=1))
    assert 0 < content_N.sum() < N_ROWS
    found = store.statistics(SITE)
    assert_equal_to_brute_force(found["all"], rows_NM, norms_N)
    assert_equal_to_brute_force(found["content"], rows_NM[content_N], norms_N[content_N])
    assert found["nan_or_inf_count"] == 0
    # The control: flagged rows differ so much that leaving them in would show.
    with pytest.raises(AssertionError):
        assert_equal_to_brute_force(found["content"], rows_NM[: content_N.sum()], norms_N[: content_N.sum()])


@pytest.mark.parametrize("encoding", CODECS)
def test_many_units_merge_to_what_one_unit_has(tmp_path: Path, encoding: str) -> None:
    sizes = {"many": 512, "one": 2**20}
    many, one = (
        ActivationStore.open(build_store(tmp_path / name, N_ROWS, encoding=encoding, chunk_bytes=512, shard_bytes=size))
        for name, size in sizes.items()
    )
    assert (many.plan.n_units > 10, one.plan.n_units) == (True, 1)
    for group in ("all", "content"):
        first, second = many.statistics(SITE)[group], one.statistics(SITE)[group]
        assert first["count"] == second["count"]
        assert first["norm_quantiles"] == second["norm_quantiles"]
        for name in ("mean", "std", "mean_square_norm"):
            np.testing.assert_allclose(first[name], second[name], rtol=1e-11)


FILTERS = [Filters(), Filters(drop_bos=True), Filters(max_norm_multiple=1.3), Filters(True, True, True, 2.0)]


@pytest.mark.parametrize("encoding", CODECS)
@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_mean_square_norm_is_that_of_the_rows_that_pass(
    tmp_path: Path, encoding: str, filters: Filters, split: str
) -> None:
    store = ActivationStore.open(build_store(tmp_path / "store", N_ROWS, encoding=encoding))
    norms_N = np.sqrt((wide_rows(encoding) ** 2).sum(axis=1))
    passes_N = np.ones(N_ROWS, bool)
    if filters.drop_bos:
        passes_N &= token_map(N_ROWS)["flags"] & 1 == 0
    if filters.max_norm_multiple is not None:
        median = store.statistics(SITE)["content"]["norm_quantiles"]["0.5"]
        passes_N &= norms_N <= filters.max_norm_multiple * median
    start, stop = store.plan.splits[split]
    kept_N = norms_N[start:stop][passes_N[start:stop]]
    assert len(kept_N) > 10
    np.testing.assert_allclose(store.mean_square_norm(SITE, split, filters), (kept_N**2).mean(), rtol=1e-6)


def test_a_store_without_content_has_no_median_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import support.small_store as small_store

    every_row_flagged = token_map(100) | {"flags": np.full(100, 2, np.uint8)}
    monkeypatch.setattr(small_store, "token_map", lambda *_: every_row_flagged)
    store = ActivationStore.open(build_store(tmp_path / "store", 100))
    assert store.statistics(SITE)["content"] == {"count": 0}
    assert store.mean_square_norm(SITE, "train", Filters()) > 0
    with pytest.raises(StoreError, match="max_norm_multiple"):
        store.mask(SITE, "train", Filters(max_norm_multiple=4.0))
    with pytest.raises(StoreError, match="no row"):
        store.mean_square_norm(SITE, "train", Filters(drop_special=True))
