"""What encodings promise: their formulas, their noise, and the refusal of what they cannot hold."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strata_sae.stores import ActivationStore, Batches, Filters, StoreError
from strata_sae.stores.deriving.slice import slice_store
from strata_sae.stores.files import mounts
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.format.encodings import (
    Columns,
    calibrate,
    dequantise,
    merge_planes,
    quantise,
    split_planes,
    to_float32,
    to_stored,
)
from strata_sae.stores.reading.site_rows import committed_columns
from strata_sae.stores.writing.units import commit_columns
from support.small_store import build_store, fill_unit, plan_store, stored_rows

SITE = "blocks.1.hook_resid_post"


def outlier_rows(n_rows: int = 4000, d_model: int = 64) -> np.ndarray:
    """Rows as language models make them: columns of unequal spread, and 1 % attention sinks with two huge columns."""
    rng = np.random.default_rng(0)
    rows_NM = rng.standard_normal((n_rows, d_model)) * np.geomspace(0.5, 8, d_model) + rng.standard_normal(d_model)
    rows_NM[::100, 7] += 20_000
    rows_NM[::100, 30] -= 5_000
    return rows_NM.astype(np.float32)


def noise_over_variance(found_NM: np.ndarray, rows_NM: np.ndarray) -> float:
    return float(np.square(found_NM - rows_NM).sum() / np.square(rows_NM - rows_NM.mean(axis=0)).sum())


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 20), st.floats(1e-6, 1e6))
@settings(max_examples=100, deadline=None)
def test_int8_errs_by_half_a_step_at_most(seed: int, n_rows: int, d_model: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    rows_NM = (rng.standard_normal((n_rows, d_model)) * size).astype(np.float32)
    columns = calibrate(rows_NM[: max(1, n_rows // 2)])
    q_NM, scale_N = quantise(rows_NM, columns)
    assert q_NM.min() >= -127
    step_NM = scale_N[:, None].astype(np.float64) * columns.scale
    error_NM = np.abs(dequantise(q_NM, scale_N, columns).astype(np.float64) - rows_NM)
    assert (error_NM <= 0.5 * step_NM + 1e-5 * (np.abs(rows_NM) + np.abs(columns.offset) + step_NM)).all()


def test_int8_keeps_sinks_and_ordinary_rows_alike() -> None:
    rows_NM = outlier_rows()
    ordinary_N = np.linalg.norm(rows_NM, axis=1) < 1000
    columns = calibrate(rows_NM[:1000])
    found_NM = dequantise(*quantise(rows_NM, columns), columns)
    assert noise_over_variance(found_NM, rows_NM) < 1e-4
    assert noise_over_variance(found_NM[ordinary_N], rows_NM[ordinary_N]) < 3e-4
    # The control: with the spread of all rows as the scale, ordinary rows drown in the noise of two columns.
    plain = Columns(rows_NM[:1000].mean(axis=0), rows_NM[:1000].std(axis=0))
    lost_NM = dequantise(*quantise(rows_NM, plain), plain)
    assert noise_over_variance(lost_NM[ordinary_N], rows_NM[ordinary_N]) > 1e-2


def test_constant_and_equal_rows_quantise_to_themselves() -> None:
    rows_NM = np.full((10, 4), 3.5, np.float32)
    columns = calibrate(rows_NM)
    np.testing.assert_array_equal(dequantise(*quantise(rows_NM, columns), columns), rows_NM)
    moved_NM = rows_NM + np.arange(4, dtype=np.float32)
    np.testing.assert_allclose(dequantise(*quantise(moved_NM, columns), columns), moved_NM, rtol=0.01)


def test_rounding_to_bfloat16_is_torch_s() -> None:
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint32)
    rows = bits.view(np.float32)
    rows = rows[np.isfinite(rows)][:, None]
    expected = torch.from_numpy(rows).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(to_stored(rows, "bfloat16", SITE, 0), expected)


def test_planes_lose_no_bit() -> None:
    bits = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(merge_planes(*split_planes(bits)), bits)


def test_float16_names_the_row_and_the_value_it_cannot_hold(tmp_path: Path) -> None:
    plan = plan_store(tmp_path / "store", 300, encoding="float16", shard_bytes=2**20)
    rows_NM = stored_rows(SITE, 300, 16).astype(np.float32)
    rows_NM[123, 5] = -70_000
    with pytest.raises(StoreError, match=r"row 123: column 5 is -70000.*65504.*bfloat16 or int8"):
        fill_unit(FileSystem(), tmp_path / "store", plan, 0, {SITE: rows_NM})
    rows_NM[123, 5] = -65_504
    assert to_stored(rows_NM, "float16", SITE, 0)[123, 5] == -65_504


@pytest.mark.parametrize("filters", [Filters(), Filters(drop_bos=True, max_norm_multiple=1.05)])
def test_an_int8_slice_serves_its_parent_s_rows_in_its_parent_s_order(tmp_path: Path, filters: Filters) -> None:
    parent = ActivationStore.open(build_store(tmp_path / "parent", 3000))
    child = slice_store(parent, tmp_path / "child", encoding="int8")
    settings_ = {"batch_size": 100, "window_rows": 512, "filters": filters, "seed": 3}
    with Batches(parent, SITE, **settings_) as exact, Batches(child, SITE, **settings_) as coded:
        assert exact.n_rows == coded.n_rows < 3000
        for step in range(40):
            rows_BM, numbers_B = exact.batch(step)
            coded_BM, coded_numbers_B = coded.batch(step)
            np.testing.assert_array_equal(numbers_B, coded_numbers_B)
            np.testing.assert_array_equal(coded_BM, np.concatenate([child.rows(SITE, n, n + 1) for n in numbers_B]))
            assert noise_over_variance(coded_BM, rows_BM) < 1e-3
    assert parent.mean_square_norm(SITE, "train", filters) == child.mean_square_norm(SITE, "train", filters)


def test_whoever_calibrates_first_decides(tmp_path: Path) -> None:
    plan = plan_store(tmp_path / "store", 300, encoding="int8")
    with pytest.raises(StoreError, match="not calibrated"):
        committed_columns(tmp_path / "store", plan)
    for value in (1.0, 2.0):
        columns = Columns(np.zeros(16, np.float32), np.full(16, value, np.float32))
        commit_columns(FileSystem(), tmp_path / "store", plan, {SITE: columns})
    assert (committed_columns(tmp_path / "store", plan)[SITE].scale == 1.0).all()


def test_a_file_cut_while_it_is_read_is_a_named_error_with_pread(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store", 1000)
    store = ActivationStore.open(path, io="pread")
    assert to_float32(store.rows(SITE, 0, 40)).shape == (40, 16)
    shard = path / store.plan.site_specs[SITE]["values"].shard_path(0)
    shard.chmod(0o644)
    with shard.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(StoreError, match=r"values/c/0/0.*has 100 bytes instead of"):
        store.rows(SITE, 100, 200)


def test_network_file_systems_are_not_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mounts"
    table.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path}/far\\040away nfs4 rw 0 0\n", encoding="utf-8")
    monkeypatch.setattr(mounts, "_MOUNTS", table)
    assert mounts.is_safe_to_map(tmp_path)
    assert not mounts.is_safe_to_map(tmp_path / "far away" / "store")
