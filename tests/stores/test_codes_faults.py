"""No damage to a byte of a codes store goes unseen, and what is no codes store, or another one, is refused by name."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from strata_sae.stores import CodesPlan, CodesStore, SegmentCodes, StoreError, create_codes, verify_codes, write_segment
from strata_sae.stores.codes import verifying
from strata_sae.stores.codes.plan import CODES
from strata_sae.stores.codes.table import parse_table, table_bytes
from strata_sae.stores.format.plan import MANIFEST
from strata_sae.stores.reading import array
from support.made_codes import D_SAE, dense_codes, made_plan, make_codes, segment_codes

DENSE_NE = dense_codes(made_plan())


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codes") / "codes"
    make_codes(path)
    (path / "staging").rmdir()
    assert verify_codes(path) == []
    return path


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "codes")


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def read_all(folder: Path) -> int:
    """Entries that are read wrong, of all that there are."""
    codes = CodesStore.open(folder)
    wrong = 0
    for latent in range(D_SAE):
        rows, values = codes.rows_of(latent)
        expected = np.flatnonzero(DENSE_NE[:, latent])
        same = len(rows) == len(expected) and (rows == expected).all() and (values == DENSE_NE[rows, latent]).all()
        wrong += not same
    wrong += not np.array_equal(codes.latents_of(0, len(DENSE_NE))[1], np.nonzero(DENSE_NE)[1])
    return wrong


def test_every_flipped_byte_is_found_and_named(folder: Path) -> None:
    rng, n_flips = random.Random(3), 0
    for file in files_of(folder):
        data = file.read_bytes()
        places = {0, len(data) - 1, len(data) // 2, *(rng.randrange(len(data)) for _ in range(2))}
        for place in sorted(places):
            flipped = bytearray(data)
            flipped[place] ^= 1 << rng.randrange(8)
            file.write_bytes(flipped)
            found = "\n".join(verify_codes(folder))
            # A flip in one of the MANIFEST's hashes shows as its disagreement with the hashed file.
            expected = MANIFEST if file.name == MANIFEST else str(file.relative_to(folder))
            assert expected in found, (file, place, found)
            n_flips += 1
        file.write_bytes(data)
    assert verify_codes(folder) == []
    assert n_flips > 200


def test_without_hashes_the_same_flips_are_not_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control, of bytes that no checksum of a chunk is of."""
    monkeypatch.setattr(verifying, "_hashes", lambda *_: iter(()))
    file = folder / "latents.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    monkeypatch.setattr(verifying, "_contents", lambda *_: iter(()))
    assert verify_codes(folder) == []


def test_no_reader_is_served_a_wrong_entry(folder: Path) -> None:
    assert read_all(folder) == 0
    rng, seen = random.Random(5), 0
    shards = [file for file in files_of(folder) if file.parent.name == "c"]
    for number in range(60):
        file = shards[number % len(shards)]
        data = file.read_bytes()
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(flipped)
        try:
            assert read_all(folder) == 0
        except StoreError as error:
            seen += str(file.relative_to(folder)) in str(error)
        file.write_bytes(data)
    assert seen >= 48  # a flip in row/offset is not read by these


def test_without_checksums_wrong_entries_are_served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the values are not compressed so far that a flip breaks them by itself."""
    monkeypatch.setattr(array, "crc_matches", lambda encoded: True)
    monkeypatch.setattr(array.ChunkRecords, "chunk_matches", lambda *_: True)
    file, wrong = folder / "segments/0000.zarr/latent/value/c/0", 0
    data = file.read_bytes()
    for place in range(200, 3000, 100):
        flipped = bytearray(data)
        flipped[place] ^= 1
        file.write_bytes(flipped)
        try:
            wrong += read_all(folder) > 0
        except StoreError:
            continue
    assert wrong >= 10


def test_a_file_of_another_segment_is_refused(folder: Path) -> None:
    first, second = (folder / f"segments/000{number}.zarr/row/offset/c/0" for number in (0, 1))
    shutil.copy(second, first)
    assert "row/offset" in "\n".join(verify_codes(folder))
    with pytest.raises(StoreError, match="row/offset"):
        CodesStore.open(folder).latents_of(0, 2)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: os.truncate(file, 0),
    "cut": lambda file: os.truncate(file, file.stat().st_size - 1),
    "grown": lambda file: os.truncate(file, file.stat().st_size + 1),
    "folder": lambda file: (file.unlink(), file.mkdir()),
    "link": lambda file: file.symlink_to(shutil.move(file, file.with_name("away"))),
    "pipe": lambda file: (file.unlink(), os.mkfifo(file)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_missing_cut_grown_or_replaced_is_named(folder: Path, damage: str) -> None:
    for name in (
        CODES,
        MANIFEST,
        "latents.safetensors",
        "segments/0001.zarr/zarr.json",
        "segments/0001.zarr/record.json",
    ):
        copy = shutil.copytree(folder, folder.with_name(f"{damage}-{Path(name).name}"))
        DAMAGES[damage](copy / name)
        found = verify_codes(copy)
        assert any(name in line or "no finished codes store" in line or "no codes store" in line for line in found)


def test_what_does_not_belong_is_named(folder: Path) -> None:
    (folder / "segments/0001.zarr/latent/notes.txt").write_text("x")
    (folder / "staging").mkdir()
    (folder / "staging/draft").write_text("what a writer left is no part of it")
    assert verify_codes(folder) == [
        f"{folder}: 'segments/0001.zarr/latent/notes.txt' does not belong to these codes; remove it"
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("store_ids", {"blocks.1.hook_resid_post": "e" * 64}),
        ("weights_sha256", "e" * 64),
        ("encoder", "bfloat16"),
        ("d_sae", 41),
        ("n_rows", 1235),
    ],
)
def test_codes_of_another_store_or_other_weights_are_refused_by_name(folder: Path, field: str, value: object) -> None:
    wanted = made_plan(**{field: value})
    for act in (lambda: CodesStore.open(folder, wanted), lambda: create_codes(folder, wanted)):
        with pytest.raises(StoreError, match=rf"{field} .*delete that folder and run strata codes again") as caught:
            act()
        assert "\n" not in str(caught.value)
    assert verify_codes(folder) == []


def test_a_codes_store_that_is_replaced_while_it_is_open_is_refused(folder: Path) -> None:
    codes = CodesStore.open(folder)
    codes.stored(0)
    file = folder / "segments/0000.zarr/latent/gap/c/0"
    shutil.copy(file, file.with_name("new"))
    file.with_name("new").replace(file)
    with pytest.raises(StoreError, match="is not the file that was there when this folder was opened"):
        codes.rows_of(0)


def broken(codes: SegmentCodes, name: str, place: int, value: float) -> SegmentCodes:
    changed = getattr(codes, name).copy()
    changed[place] = value
    return codes._replace(**{name: changed})


WRONG: dict[str, Callable[[SegmentCodes], SegmentCodes]] = {
    "a value of 0": lambda codes: broken(codes, "latent_value", 5, 0),
    "no finite": lambda codes: broken(codes, "latent_value", 5, np.inf),
    "finite": lambda codes: broken(codes, "latent_value", 5, np.nan),
    "beyond": lambda codes: broken(codes, "row_latent", int(codes.row_offset[1]) - 1, D_SAE),
    "rise": lambda codes: broken(codes, "latent_row", 1, codes.latent_row[0]),
    "not the rows": lambda codes: broken(codes, "latent_row", int(codes.latent_offset[1]) - 1, 499),
    "leave out": lambda codes: broken(codes, "row_offset", -1, 3 + int(codes.row_offset[-2])),
    "no offsets": lambda codes: broken(codes, "latent_offset", 2, 10_000),
    "lengths": lambda codes: codes._replace(row_offset=codes.row_offset[:-1]),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_are_no_codes_is_not_written(tmp_path: Path, what: str) -> None:
    plan = made_plan()
    create_codes(tmp_path / "codes", plan)
    codes = segment_codes(plan, 0)
    assert codes.latent_row[int(codes.latent_offset[1]) - 1] != 499
    with pytest.raises(StoreError, match=r"segment 0: "):
        write_segment(tmp_path / "codes", plan, 0, WRONG[what](codes))
    assert list((tmp_path / "codes/segments").iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"d_sae": 0},
        {"d_sae": 2**25},
        {"n_rows": 2**49},
        {"n_rows": 2**40, "rows_per_segment": 1},
        {"rows_per_segment": 2**32},
        {"store_ids": {}},
        {"site": "x" * 1000},
    ],
)
def test_a_plan_that_no_codes_can_have_is_refused(tmp_path: Path, folder: Path, changes: dict[str, object]) -> None:
    plan: CodesPlan = made_plan(**changes)
    with pytest.raises(StoreError, match="no codes store can hold this"):
        create_codes(tmp_path / "new", plan)
    (folder / CODES).write_bytes(plan.data)
    with pytest.raises(StoreError, match=r"a field is not what codes may hold"):
        CodesStore.open(folder)


def test_a_table_of_other_latents_or_with_holes_is_refused() -> None:
    data = np.frombuffer(table_bytes({"count": np.arange(8)}, 8), np.uint8)
    assert parse_table(data, 8, Path("t"))["count"].tolist() == list(range(8))
    n_header = int(data[:8].view("<u8")[0])
    for wrong in (
        data[:-1],
        np.append(data, np.uint8(0)),
        data[:4],
        data[:0],
        np.concatenate([np.array([2**40], "<u8").view(np.uint8), data[8:]]),
        np.frombuffer(data.tobytes().replace(b'"I64"', b'"I32"'), np.uint8),
        np.frombuffer(data.tobytes().replace(b"[8]", b"[4]"), np.uint8),
        np.frombuffer(data.tobytes().replace(b"[0,", b"[1,"), np.uint8),
        np.frombuffer(data[: 8 + n_header].tobytes().replace(b'"I64"', b'"C64"'), np.uint8),
    ):
        with pytest.raises(StoreError, match=r"t: "):
            parse_table(wrong, 8, Path("t"))
    with pytest.raises(StoreError, match="of 9 latents"):
        table_bytes({"count": np.arange(8)}, 9)
