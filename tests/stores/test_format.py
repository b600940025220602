"""A store is plain zarr: zarr reads exactly what was written, and its metadata is a function of the plan."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import zarr

from strata_sae.stores import ActivationStore
from strata_sae.stores.files.canonical import canonical_json
from strata_sae.stores.format.encodings import CODECS, COMPRESSORS, to_float32
from strata_sae.stores.format.plan import ARRAYS, TOKEN_FIELDS, activation_bytes
from strata_sae.stores.format.plan_file import parse_plan, read_plan
from strata_sae.stores.format.shards import shard_bytes
from support.plain_zarr import plain_rows
from support.small_store import build_store, plan_store, stored_rows, token_map

SITES = {"blocks.0.hook_mlp_out": 5, "blocks.1.hook_resid_post": 16}
SITE = "blocks.1.hook_resid_post"
SIZES = {
    "one row": (1, 2048, 16384),
    "fewer rows than a chunk": (31, 2048, 16384),
    "not a multiple of chunk or unit": (1000, 2048, 16384),
    "one more row than a unit": (257, 2048, 16384),
    "exactly two units": (512, 2048, 16384),
    "units of one chunk": (300, 2048, 2048),
    "chunks of one row": (70, 1, 256),
}
FORMATS = [(e, c) for e, c in product(CODECS, COMPRESSORS) if c != "planes" or e == "bfloat16"]


def assert_plain_zarr_agrees(path: Path, n_rows: int) -> None:
    store, group = ActivationStore.open(path), zarr.open_group(path / ARRAYS, mode="r")
    for site, d_model in store.plan.sites.items():
        expected_NM = stored_rows(site, n_rows, d_model, store.plan.encoding)
        wide_NM = to_float32(expected_NM).astype(np.float64)
        array = group[f"sites/{site}/{'high' if store.plan.compressor == 'planes' else 'values'}"]
        assert array.attrs["dtype"] == store.plan.encoding
        found_NM = to_float32(store.rows(site, 0, n_rows))
        assert plain_rows(group, site).astype(np.float32).tobytes() == found_NM.tobytes()
        if store.plan.encoding == "int8":
            error_NM = found_NM - wide_NM
            steps_N = group[f"sites/{site}/scale"][:]
            columns_M = group[f"sites/{site}/column_scale"][:]
            assert (np.abs(error_NM) <= 0.5001 * steps_N[:, None] * columns_M + 1e-6 * np.abs(wide_NM).max()).all()
        else:
            assert found_NM.tobytes() == to_float32(expected_NM).tobytes()
            assert array.dtype == (np.uint8 if store.plan.compressor == "planes" else expected_NM.dtype)
        norms_N = np.sqrt((wide_NM**2).sum(axis=1)).astype(np.float32)
        np.testing.assert_array_equal(group[f"sites/{site}/norm"][:], store.norms(site, 0, n_rows))
        np.testing.assert_allclose(store.norms(site, 0, n_rows), norms_N, rtol=1e-6)
    for field, expected_N in token_map(n_rows).items():
        array = group[f"tokens/{field}"]
        assert array.dtype == np.dtype(TOKEN_FIELDS[field])
        np.testing.assert_array_equal(array[:], expected_N)
        np.testing.assert_array_equal(store.token_map(field, 0, n_rows), expected_N)


@pytest.mark.parametrize(("encoding", "compressor"), FORMATS)
@pytest.mark.parametrize("size", SIZES)
def test_plain_zarr_reads_what_was_written(tmp_path: Path, encoding: str, compressor: str, size: str) -> None:
    n_rows, chunk_bytes, shard_size = SIZES[size]
    options = {"encoding": encoding, "compressor": compressor, "chunk_bytes": chunk_bytes, "shard_bytes": shard_size}
    path = build_store(tmp_path / "store", n_rows, SITES, **options)
    assert_plain_zarr_agrees(path, n_rows)


def test_any_slice_of_rows_is_the_same_slice(tmp_path: Path) -> None:
    for encoding, compressor in FORMATS:
        path = build_store(tmp_path / f"{encoding}-{compressor}", 300, SITES, encoding=encoding, compressor=compressor)
        store = ActivationStore.open(path)
        expected_NM = store.rows(SITE, 0, 300)
        rng = np.random.default_rng(0)
        for start, stop in np.sort(rng.integers(0, 301, (100, 2)), axis=1).tolist():
            np.testing.assert_array_equal(store.rows(SITE, start, stop), expected_NM[start:stop])


def test_zarr_json_is_a_function_of_the_plan(tmp_path: Path) -> None:
    first, second = (build_store(tmp_path / name, 300, SITES) for name in ("a", "b"))
    plan = parse_plan((first / "plan.json").read_bytes(), first / "plan.json")
    metadata = plan.metadata_files()
    on_disk = {str(path.relative_to(first)) for path in first.rglob("zarr.json")}
    assert set(metadata) == on_disk
    assert len(on_disk) == 3 + 4 + 3 * len(SITES)
    for name, data in metadata.items():
        assert data == (first / name).read_bytes() == (second / name).read_bytes() == canonical_json(json.loads(data))


def test_sizes_are_known_before_a_byte_is_written(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store", 1000, SITES)
    plan = read_plan(path)
    files = [path / name for unit in range(plan.n_units) for name in plan.unit_files(unit)]
    assert activation_bytes(plan) == sum(file.stat().st_size for file in files)
    for spec in plan.token_specs.values():
        assert (path / spec.shard_path(0)).stat().st_size <= shard_bytes(spec, 0)


def test_every_bfloat16_becomes_the_float32_it_is() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    floats = to_float32(bits)
    sign = np.where(bits >> 15, -1.0, 1.0)
    exponent, mantissa = (bits >> 7 & 0xFF).astype(np.int64), (bits & 0x7F).astype(np.float64)
    special = exponent == 255
    normal = np.ldexp(1 + mantissa / 128, exponent - 127)
    value = sign * np.where(exponent == 0, np.ldexp(mantissa / 128, -126), np.where(special, 0, normal))
    np.testing.assert_array_equal(floats[~special], value[~special].astype(np.float32))
    assert np.isnan(floats[special & (mantissa > 0)]).all()
    np.testing.assert_array_equal(floats[special & (mantissa == 0)], [np.inf, -np.inf])
    np.testing.assert_array_equal((floats.view(np.uint32) >> 16).astype(np.uint16), bits)
    assert floats.dtype == np.float32


def test_every_float16_becomes_the_float32_it_is() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)]
    np.testing.assert_array_equal(to_float32(finite).astype(np.float16).view(np.uint16), finite.view(np.uint16))


def test_the_fill_value_of_bfloat16_is_nan() -> None:
    fill = CODECS["bfloat16"].fill_value
    assert fill == 0xFFFF
    assert np.isnan(to_float32(np.array([fill], np.uint16))).all()


@pytest.mark.parametrize("encoding", CODECS)
def test_plain_zarr_shows_what_is_missing_as_nan_or_minus_one_never_as_zero(tmp_path: Path, encoding: str) -> None:
    n_rows = 600
    path = build_store(tmp_path / "store", n_rows, SITES, encoding=encoding, chunk_bytes=512, shard_bytes=4096)
    plan = read_plan(path)
    start, stop = plan.unit_rows(1)
    for name in plan.unit_files(1):
        (path / name).unlink()
    for spec in plan.token_specs.values():
        (path / spec.shard_path(0)).unlink()
    group = zarr.open_group(path / ARRAYS, mode="r")
    for site in SITES:
        rows_NM = plain_rows(group, site)
        assert np.isnan(rows_NM[start:stop]).all()
        assert np.isfinite(rows_NM[:start]).all()
        assert np.isfinite(rows_NM[stop:]).all()
        assert np.isnan(group[f"sites/{site}/norm"][start:stop]).all()
    for field in ("token_id", "document", "position"):
        assert (group[f"tokens/{field}"][:] == -1).all()
    assert (group["tokens/flags"][:] == 255).all()


def test_an_unfilled_store_reads_as_nan_in_plain_zarr(tmp_path: Path) -> None:
    plan_store(tmp_path / "store", 300, SITES)
    group = zarr.open_group(tmp_path / "store" / ARRAYS, mode="r")
    assert all(np.isnan(group[f"sites/{site}/values"][:]).all() for site in SITES)
