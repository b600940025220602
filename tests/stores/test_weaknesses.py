"""What other stores of activations get wrong and no other test shows of ours; docs/weaknesses.md lists all of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import support.small_store as small_store
from strata_sae.stores import ActivationStore, Batches, Filters
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.format.encodings import CODECS
from strata_sae.stores.format.plan import TIMINGS
from strata_sae.stores.format.statistics import Moments
from strata_sae.stores.reading.array import StoredArray
from strata_sae.stores.serving.windows import WindowFiller
from support.small_store import build_store, stored_rows, token_map

SITE = "blocks.1.hook_resid_post"
N_ROWS = 4000
WINDOWS = [128, 512, 2048, 2**20]


def rows_copied_by_a_mixing_buffer(window_rows: int, n_rows: int, batch_size: int) -> int:
    """What a buffer copies that is concatenated with every batch that comes in, as SAELens's is."""
    buffer, copied = np.empty((0, 1)), 0
    for _ in range(0, n_rows, batch_size):
        buffer = np.concatenate([buffer, np.zeros((batch_size, 1))])
        copied += len(buffer)
        if len(buffer) >= window_rows:
            buffer = buffer[batch_size:]
    return copied


def test_a_wider_window_copies_no_row_more_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ActivationStore.open(build_store(tmp_path / "store", N_ROWS, {SITE: 8}))
    copied: list[int] = []
    put = WindowFiller._put

    def counting(self: WindowFiller, buffer: Any, target: Any, block: int, rows: Any, scales: Any) -> None:
        copied.append(len(rows))
        put(self, buffer, target, block, rows, scales)

    monkeypatch.setattr(WindowFiller, "_put", counting)
    for window_rows in WINDOWS:
        copied.clear()
        with Batches(store, SITE, batch_size=64, window_rows=window_rows) as batches:
            three_epochs, ahead = 3 * batches.n_rows, 2 * batches.blocks_per_window * store.plan.rows_per_chunk
            for step in range(three_epochs // 64):
                batches.batch(step)
        assert three_epochs - 64 <= sum(copied) <= three_epochs + ahead
    narrow, wide = (rows_copied_by_a_mixing_buffer(window_rows, 3 * N_ROWS, 64) for window_rows in (128, 2048))
    assert wide > 8 * narrow, "control: so counted, a window's cost shows"


def test_a_slice_reads_each_chunk_once_wherever_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ActivationStore.open(build_store(tmp_path / "store", 1000, {SITE: 16}))
    size, unit = store.plan.rows_per_chunk, store.plan.rows_per_unit
    assert 2 * size < 200
    assert unit < 500
    reads: list[int] = []
    chunk = StoredArray.chunk

    def counting(self: StoredArray, number: int) -> np.ndarray:
        if self.spec.path.endswith("/values"):
            reads.append(number)
        return chunk(self, number)

    monkeypatch.setattr(StoredArray, "chunk", counting)
    for start in (0, 1, size - 1, size, unit - 200, unit - 100, unit - 1, unit):
        reads.clear()
        store.rows(SITE, start, start + 200)
        assert reads == list(range(start // size, -(-(start + 200) // size))), start
    reads.clear()
    rows_NM = np.concatenate([rows for rows, _ in store.in_order(SITE, "train", Filters(), 70)])
    assert len(rows_NM) == store.plan.splits["train"][1]
    assert reads == [*range(-(-len(rows_NM) // size))]
    reads.clear()
    for row in range(unit - 100, unit + 100):
        store.rows(SITE, row, row + 1)
    assert len(reads) == 200, "control: row by row, as a reader in Python falls back to, is seen"


LARGE_IDS = np.array([50_256, 65_519, 65_521, 128_000, 128_001, 151_643, 262_143, 2**31 - 1], np.int32)
BOS = 128_000


@pytest.mark.parametrize("encoding", CODECS)
def test_token_ids_are_integers_whatever_rows_are(
    tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(n_rows: int, *_: int) -> dict[str, np.ndarray]:
        fields = token_map(n_rows)
        id_N = np.where(fields["flags"] & 1, BOS, LARGE_IDS[np.arange(n_rows) % len(LARGE_IDS)])
        return fields | {"token_id": id_N.astype(np.int32)}

    monkeypatch.setattr(small_store, "token_map", large)
    store = ActivationStore.open(build_store(tmp_path / "store", 300, encoding=encoding))
    fields, n_train = large(300), store.plan.splits["train"][1]
    found = store.token_map("token_id", 0, 300)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, fields["token_id"])
    kept = np.concatenate([n for _, n in store.in_order(SITE, "train", Filters(drop_bos=True), 100)])
    np.testing.assert_array_equal(kept, np.flatnonzero(fields["flags"][:n_train] == 0))
    assert BOS in found[kept], "a BOS id in the midst of a text is text: flags decide, not ids"
    # The control: what becomes of these ids in the types that rows have.
    with np.errstate(over="ignore"):
        assert (LARGE_IDS.astype(np.float16).astype(np.float64) != LARGE_IDS).mean() > 0.8
    halved = (LARGE_IDS.astype(np.float32).view(np.uint32) >> 16 << 16).view(np.float32)
    assert (halved.astype(np.float64) != LARGE_IDS).mean() > 0.8


def contents(store: Path) -> dict[str, str]:
    files = (file for file in sorted(store.rglob("*")) if file.is_file() and TIMINGS not in file.parts)
    return {str(file.relative_to(store)): file_sha256(file) for file in files}


def test_ids_are_of_the_bytes_and_not_of_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = build_store(tmp_path / "here", 300), build_store(tmp_path / "far" / "away", 300)
    assert contents(first) == contents(second)
    store = ActivationStore.open(first)
    assert len(store.id) == len(store.plan.id) == 64
    moved = ActivationStore.open(second.rename(tmp_path / "moved"))
    assert (moved.id, moved.plan.id) == (store.id, store.plan.id)
    assert not any(str(tmp_path).encode() in file.read_bytes() for file in first.rglob("*") if file.is_file())

    def one_bit_off(*arguments: Any) -> np.ndarray:
        rows_NM = stored_rows(*arguments)
        rows_NM.view(np.uint32)[200, 3] ^= 1
        return rows_NM

    changed = ActivationStore.open(build_store(tmp_path / "config", 300, config={"corpus": {"n_tokens": 999}}))
    assert changed.plan.id != store.plan.id
    monkeypatch.setattr(small_store, "stored_rows", one_bit_off)
    other = ActivationStore.open(build_store(tmp_path / "other", 300))
    assert other.plan.id == store.plan.id, "control: an id of the configuration alone tells the two not apart"
    assert other.id != store.id


def test_statistics_of_many_rows_do_not_drift(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bits_NM = ((3 + 2 * rng.standard_normal((256_000, 4), np.float32)).view(np.uint32) >> 16 << 16).astype(np.uint32)
    rows_NM = bits_NM.view(np.float32)  # numbers that bfloat16 holds
    moments = Moments(4)
    batches = rows_NM.reshape(2000, 128, 4)
    mean_M, squares_M = np.zeros(4, np.float16), np.zeros(4, np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        for number, batch_BM in enumerate(batches):
            moments.add(batch_BM, np.linalg.norm(batch_BM, axis=1), np.zeros(128, np.uint8))
            apart_BM = batch_BM.astype(np.float16) - mean_M
            mean_M = mean_M + (apart_BM.sum(axis=0) / np.float16(128 * (number + 1))).astype(np.float16)
            squares_M = squares_M + (apart_BM * (batch_BM.astype(np.float16) - mean_M)).sum(axis=0)
    found = moments.record()["all"]
    mean, square = np.array(found["sum"]) / found["count"], np.array(found["sum_squares"]) / found["count"]
    wide_NM = rows_NM.astype(np.float64)
    np.testing.assert_allclose(mean, wide_NM.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(np.sqrt(square - mean**2), wide_NM.std(axis=0), rtol=1e-9)
    assert not np.isfinite(squares_M).any(), "control: running sums in the rows' own type overflow"
