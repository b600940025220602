"""Codes are read back bit by bit, by our reader and by plain zarr; what is asked for is read, and no more."""

import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from strata_sae.stores import CodesStore, StoreError, create_codes, finish_codes, verify_codes, write_segment
from strata_sae.stores.codes import stored_segment
from strata_sae.stores.codes.layout import array_specs, is_codes_path
from support.made_codes import D_SAE, DENSE, N_ROWS, SILENT, codes_of, dense_codes, made_plan, made_table, make_codes

DENSE_NE = dense_codes(made_plan())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codes") / "codes"
    make_codes(path)
    return path


@pytest.fixture
def codes(folder: Path) -> CodesStore:
    return CodesStore.open(folder, made_plan())


def test_the_rows_of_every_latent(codes: CodesStore) -> None:
    for latent in range(D_SAE):
        rows, values = codes.rows_of(latent)
        assert (rows.dtype, values.dtype) == (np.int64, np.float32)
        assert rows.tolist() == np.flatnonzero(DENSE_NE[:, latent]).tolist()
        assert values.tobytes() == DENSE_NE[rows, latent].tobytes()
    assert len(codes.rows_of(SILENT)[0]) == 0
    assert len(codes.rows_of(DENSE)[0]) == N_ROWS - 10


@pytest.mark.parametrize(
    ("start", "stop"), [(0, N_ROWS), (0, 0), (N_ROWS, N_ROWS), (499, 501), (600, 610), (598, 1001), (1233, 1234)]
)
def test_the_latents_of_rows(codes: CodesStore, start: int, stop: int) -> None:
    offsets, latents = codes.latents_of(start, stop)
    assert (offsets.dtype, latents.dtype, len(offsets)) == (np.int64, np.uint32, stop - start + 1)
    row, latent = np.nonzero(DENSE_NE[start:stop])
    assert latents.tolist() == latent.tolist()
    assert np.diff(offsets).tolist() == np.bincount(row, minlength=stop - start).tolist()


def test_the_values_of_a_latent_on_any_rows_in_any_order(codes: CodesStore) -> None:
    rows = np.random.default_rng(4).integers(0, N_ROWS, 200)
    for latent in (0, 11, SILENT, DENSE):
        assert codes.values(latent, rows).tobytes() == DENSE_NE[rows, latent].tobytes()
    assert codes.values(0, np.empty(0, np.int64)).tolist() == []


def test_counts_and_the_table(codes: CodesStore) -> None:
    assert codes.count_E.tolist() == (DENSE_NE != 0).sum(axis=0).tolist()
    assert codes.n_pairs == int((DENSE_NE != 0).sum())
    for name, array in made_table(codes.plan).items():
        assert codes.table[name].dtype == array.dtype
        assert np.array_equal(codes.table[name], array)


def test_a_whole_segment(codes: CodesStore) -> None:
    found = codes.segment(1)
    back_RE = np.zeros((500, D_SAE), np.float32)
    back_RE[found.latent_row, np.repeat(np.arange(D_SAE), np.diff(found.latent_offset))] = found.latent_value
    assert np.array_equal(back_RE, DENSE_NE[500:1000])
    assert found.row_latent.tolist() == np.nonzero(DENSE_NE[500:1000])[1].tolist()
    assert [array.dtype for array in found] == [np.int64, np.uint32, np.int64, np.uint32, np.float32]


def test_plain_zarr_opens_a_segment(folder: Path) -> None:
    for number, first in enumerate((0, 500, 1000)):
        group = zarr.open_group(str(folder / f"segments/{number:04d}.zarr"), mode="r")
        part_RE = DENSE_NE[first : first + 500]
        assert group.attrs["rows"] == [first, first + len(part_RE)]
        offset, gap, value = (group[f"latent/{name}"][:] for name in ("offset", "gap", "value"))
        for latent in range(D_SAE):
            some = slice(int(offset[latent]), int(offset[latent + 1]))
            rows = np.cumsum(gap[some])
            assert rows.tolist() == np.flatnonzero(part_RE[:, latent]).tolist()
            assert value[some].tobytes() == part_RE[rows.astype(np.int64), latent].tobytes()
        assert group["row/latent"][:].tolist() == np.nonzero(part_RE)[1].tolist()
        assert group["row/latent"].dtype == np.uint16
        assert np.diff(group["row/offset"][:]).tolist() == (part_RE != 0).sum(axis=1).tolist()


def test_latents_beyond_two_bytes_take_four() -> None:
    widths = {d_sae: array_specs(made_plan(d_sae=d_sae), 0, 9)["row/latent"].dtype for d_sae in (65_536, 65_537)}
    assert widths == {65_536: "<u2", 65_537: "<u4"}


def test_what_there_is_not_is_refused(codes: CodesStore) -> None:
    for ask in (
        lambda: codes.rows_of(-1),
        lambda: codes.rows_of(D_SAE),
        lambda: codes.values(D_SAE, np.array([0])),
        lambda: codes.values(0, np.array([0, N_ROWS])),
        lambda: codes.values(0, np.array([-1])),
        lambda: codes.latents_of(0, N_ROWS + 1),
        lambda: codes.latents_of(5, 4),
        lambda: codes.segment(3),
    ):
        with pytest.raises(StoreError, match=r"there are|leave"):
            ask()


@pytest.fixture
def big(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[CodesStore, list[tuple[str, int]]]:
    """Codes whose arrays have several chunks, and (array, chunk) of everything that is decoded."""
    monkeypatch.setattr("strata_sae.stores.codes.layout.ENTRIES_PER_CHUNK", 256)
    monkeypatch.setattr(stored_segment, "KEPT", stored_segment.Kept(20_000))
    make_codes(tmp_path / "codes")
    read: list[tuple[str, int]] = []
    real = stored_segment.StoredArray.chunk

    def chunk(self: stored_segment.StoredArray, number: int) -> np.ndarray:
        read.append((self.spec.path.partition(".zarr/")[2], number))
        return real(self, number)

    monkeypatch.setattr(stored_segment.StoredArray, "chunk", chunk)
    return CodesStore.open(tmp_path / "codes"), read


def test_a_latent_reads_its_chunks_only(big: tuple[CodesStore, list[tuple[str, int]]]) -> None:
    codes, read = big
    rows, values = codes.rows_of(20)
    assert values.tobytes() == DENSE_NE[rows, 20].tobytes()
    assert not [array for array, _ in read if array.startswith("row/")]
    assert len(read) <= 3 * 5  # a segment: an offset, and at most two chunks of gaps and of values
    read.clear()
    codes.rows_of(20)
    assert read == []  # it is kept


def test_a_stretch_of_rows_reads_its_chunks_only(big: tuple[CodesStore, list[tuple[str, int]]]) -> None:
    codes, read = big
    codes.latents_of(700, 705)
    assert {array for array, _ in read} == {"row/offset", "row/latent"}
    assert len(read) <= 4
    read.clear()
    assert codes.count_E[DENSE] == N_ROWS - 10
    assert {array for array, _ in read} == {"latent/offset"}


def test_memory_stays_bounded_whatever_is_read(big: tuple[CodesStore, list[tuple[str, int]]]) -> None:
    codes, _ = big
    seen = []
    for latent in range(D_SAE):
        codes.rows_of(latent)
        codes.latents_of(30 * latent, 30 * latent + 30)
        seen.append(stored_segment.KEPT.n_bytes)
    assert 15_000 < max(seen) <= 20_000
    assert len(codes.segment(0).row_latent)  # larger than all that is kept, so it is not
    assert stored_segment.KEPT.n_bytes <= 20_000


def test_segments_that_were_not_asked_for_long_are_closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strata_sae.stores.codes.reading._OPEN_SEGMENTS", 1)
    monkeypatch.setattr(stored_segment, "KEPT", stored_segment.Kept(0))
    codes = CodesStore.open(folder)

    def n_open() -> int:
        return sum(
            str(folder) in os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _there(fd)
        )

    for _ in range(3):
        codes.rows_of(0)
        assert n_open() <= 5


def _there(descriptor: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{descriptor}")


def test_no_pairs_at_all(tmp_path: Path) -> None:
    plan = made_plan(n_rows=700, d_sae=5)
    create_codes(tmp_path / "codes", plan)
    write_segment(tmp_path / "codes", plan, 0, codes_of(np.zeros((500, 5), np.float32)))
    write_segment(tmp_path / "codes", plan, 1, codes_of(np.eye(200, 5, dtype=np.float32)))
    finish_codes(tmp_path / "codes", plan, {})
    codes = CodesStore.open(tmp_path / "codes")
    assert codes.rows_of(2)[0].tolist() == [502]
    assert codes.latents_of(0, 500)[0].tolist() == [0] * 501
    assert codes.values(2, np.array([2, 502])).tolist() == [0, 1]
    assert codes.table == {}
    assert len(codes.segment(0).row_latent) == 0
    assert zarr.open_group(str(tmp_path / "codes/segments/0000.zarr"), mode="r")["latent/gap"].shape == (0,)
    assert verify_codes(tmp_path / "codes") == []


def test_every_file_is_known_to_be_ours(folder: Path) -> None:
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        assert is_codes_path(name + "/" * path.is_dir()), name
    for name in ("notes.txt", "segments", "segments/x/", "segments/0000.zarr/latent/c/0", "segments/0.zarr/zarr.json"):
        assert not is_codes_path(name), name
