"""Files of a codes store that somebody wrote on purpose: whatever they say, what comes is a StoreError."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strata_sae.stores import (
    CodesStore,
    SegmentCodes,
    StoreError,
    create_codes,
    finish_codes,
    verify_codes,
    write_segment,
)
from strata_sae.stores.codes import writing
from strata_sae.stores.codes.plan import CODES
from strata_sae.stores.files.canonical import canonical_json
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.format.plan import MANIFEST
from support.made_codes import D_SAE, codes_of, dense_codes, made_plan, make_codes

PLAN = made_plan(n_rows=90, rows_per_segment=50)
RECORD = "segments/0001.zarr/record.json"
ODD: list[Any] = [None, True, -1, 0, 2**63, 2**70, 1.5, "", "x", "9" * 64, [], [[]], {}, {"a": 1}, "../../etc/passwd"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make_codes(path := tmp_path_factory.mktemp("codes") / "codes", PLAN)
    return path


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "codes")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in a value that can be replaced, itself left out."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with one thing replaced; removed if the new one is ..."""
    result = copy.deepcopy(value)
    at = result
    for key in path[:-1]:
        at = at[key]
    if new is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = new
    return result


def sealed(folder: Path, name: str, value: dict[str, Any]) -> None:
    """Write a file with its own checksum, and with that which the MANIFEST has of it, as its author would."""
    if name != MANIFEST:
        value.pop("sha256", None)
        value["sha256"] = sha256(canonical_json(value))
        data = canonical_json(value)
        manifest = json.loads((folder / MANIFEST).read_bytes())
        manifest["files"][name] = {"bytes": len(data), "sha256": sha256(data)}
        if name == CODES:
            manifest["codes"] = sha256(data)
        (folder / MANIFEST).write_bytes(canonical_json(manifest))
    (folder / name).write_bytes(canonical_json(value))


def read_all(folder: Path) -> None:
    codes = CodesStore.open(folder)
    for latent in (0, D_SAE - 1):
        codes.rows_of(latent)
    codes.latents_of(0, codes.plan.n_rows)
    assert len(codes.count_E) == D_SAE
    assert len(codes.table["count_all"]) == D_SAE
    for i in range(codes.plan.n_segments):
        codes.segment(i)


@pytest.mark.parametrize("name", [CODES, MANIFEST, RECORD])
def test_every_field_replaced_by_what_it_is_not(folder: Path, name: str) -> None:
    value = json.loads((folder / name).read_bytes())
    kept = {file: (folder / file).read_bytes() for file in (CODES, MANIFEST, RECORD)}
    refused = served = tried = 0
    paths = [path for path in leaves(value) if path[0] != "sha256"]
    for number, path in enumerate(paths):
        for new in [..., *ODD] if len(path) == 1 else [[..., *ODD][(7 * number) % (1 + len(ODD))]]:
            sealed(folder, name, changed(value, path, new))
            tried += 1
            try:
                read_all(folder)
                served += 1
            except StoreError as error:
                refused += len(str(error)) < 1000
            for file, data in kept.items():
                (folder / file).write_bytes(data)
    assert refused + served == tried > 60
    # Of the plan, texts that name something may be any: it is then a codes store of something else.
    assert served == 0 or name == CODES
    read_all(folder)


EVIL: dict[str, Callable[[SegmentCodes], dict[str, np.ndarray]]] = {
    "is beyond the last one": lambda codes: {"latent_row": replaced(codes.latent_row, codes.latent_offset[1] - 1, 999)},
    "do not rise": lambda codes: {"latent_row": replaced(codes.latent_row, 1, codes.latent_row[0])},
    "of 40 latents": lambda codes: {"row_latent": replaced(codes.row_latent, 0, 60_000)},
    "are no offsets": lambda codes: {"latent_offset": replaced(codes.latent_offset, 1, 2**40)},
    "are no offsets into": lambda codes: {"row_offset": replaced(codes.row_offset, 1, 2**40)},
    "no finite number": lambda codes: {"latent_value": replaced(codes.latent_value, 0, np.nan)},
}


def replaced(array: np.ndarray, place: int, value: float) -> np.ndarray:
    array = array.copy()
    array[place] = value
    return array


@pytest.mark.parametrize("what", EVIL)
def test_content_that_its_author_hashed_is_refused_as_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(writing, "check_codes", lambda *_: None)
    create_codes(folder := tmp_path / "codes", PLAN)
    dense_NE = dense_codes(PLAN)
    for segment in range(2):
        codes = codes_of(dense_NE[slice(*PLAN.segment_rows(segment))])
        write_segment(folder, PLAN, segment, codes._replace(**EVIL[what](codes)) if segment else codes)
    finish_codes(folder, PLAN, {"count_all": (dense_NE != 0).sum(axis=0)})
    with pytest.raises(StoreError, match=what):
        read_all(folder)
    found = "\n".join(verify_codes(folder))
    assert "segments/0001.zarr" in found


def test_two_orders_that_hold_other_pairs_are_told_by_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense_NE = dense_codes(PLAN)
    other_NE = dense_NE.copy()
    row = int(np.flatnonzero((dense_NE[:50, 0] == 0) & (dense_NE[:50, 1] != 0))[0])
    other_NE[row, 0], other_NE[row, 1] = 1, 0
    create_codes(folder := tmp_path / "codes", PLAN)
    monkeypatch.setattr(writing, "check_codes", lambda *_: None)
    mixed = codes_of(other_NE[:50])._replace(**dict(list(codes_of(dense_NE[:50])._asdict().items())[:2]))
    write_segment(folder, PLAN, 0, mixed)
    write_segment(folder, PLAN, 1, codes_of(dense_NE[50:]))
    finish_codes(folder, PLAN, {})
    assert "the latents of its rows are not the rows of its latents" in "\n".join(verify_codes(folder))


def test_a_table_that_counts_otherwise_is_told_by_verify(tmp_path: Path) -> None:
    create_codes(folder := tmp_path / "codes", PLAN)
    dense_NE = dense_codes(PLAN)
    for segment in range(2):
        write_segment(folder, PLAN, segment, codes_of(dense_NE[slice(*PLAN.segment_rows(segment))]))
    finish_codes(folder, PLAN, {"count_all": np.zeros(D_SAE, np.int64)})
    assert ["latents.safetensors: count_all is not" in line for line in verify_codes(folder)] == [True]


def test_a_hostile_zarr_json_is_refused_and_never_obeyed(folder: Path) -> None:
    name = "segments/0000.zarr/latent/value/zarr.json"
    told = json.loads((folder / name).read_bytes())
    told["shape"] = [2**60]
    data = canonical_json(told)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"][name] = {"bytes": len(data), "sha256": sha256(data)}
    (folder / name).write_bytes(data)
    (folder / MANIFEST).write_bytes(canonical_json(manifest))
    with pytest.raises(StoreError, match="is not the metadata of these codes"):
        read_all(folder)
