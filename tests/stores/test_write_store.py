"""Stores of arrays: read back as they were, finished where a write broke off, refused where arrays clash."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from strata_sae.stores import (
    TOKEN_ROWS_PER_CHUNK,
    ActivationStore,
    Batches,
    Filters,
    StoreError,
    read_plan,
    verify,
    write_store,
)
from strata_sae.stores.errors import UnfitRows
from strata_sae.stores.format.encodings import to_float32
from strata_sae.stores.format.vocabulary import Token
from strata_sae.stores.front import given_tokens
from strata_sae.stores.writing.units import UnitWriter
from support.small_store import stored_rows, token_map

SITE, WIDTH, N_ROWS = "blocks.1.hook_resid_post", 16, 1000
SMALL = {"chunk_bytes": 1024, "shard_bytes": 8192}


@pytest.fixture
def rows() -> dict[str, np.ndarray]:
    return {SITE: stored_rows(SITE, N_ROWS, WIDTH), "mine": stored_rows("mine", N_ROWS, 5)}


@pytest.mark.parametrize("encoding", ["float32", "float16", "bfloat16", "int8"])
def test_rows_and_their_tokens_are_read_back(tmp_path: Path, encoding: str) -> None:
    given = {site: stored_rows(site, N_ROWS, width, encoding) for site, width in ((SITE, WIDTH), ("mine", 5))}
    words = {word: Token(f" w{word}".encode(), special=word == 0) for word in range(50)}
    store = write_store(tmp_path / "s", given, tokens=token_map(N_ROWS), vocabulary=words, encoding=encoding, **SMALL)
    assert verify(store.path, deep=True) == []
    for site, rows_NM in given.items():
        exact = encoding != "int8"
        np.testing.assert_allclose(store.float_rows(site, 0, N_ROWS), to_float32(rows_NM), atol=0 if exact else 0.5)
    for field, values_N in token_map(N_ROWS).items():
        np.testing.assert_array_equal(store.token_map(field, 0, N_ROWS), values_N)
    assert store.tokens == words


def test_what_is_left_out_is_one_document_a_row_and_the_last_tenth_is_held_out(tmp_path: Path, rows) -> None:
    store = write_store(tmp_path / "s", rows, **SMALL)
    assert store.plan.n_documents == N_ROWS
    assert store.plan.splits == {"train": (0, 900), "heldout": (900, 1000)}
    assert {token.text for token in store.tokens.values()} == {"<0>"}


def test_a_document_is_never_cut_by_a_split(tmp_path: Path, rows) -> None:
    document_N = np.repeat(np.arange(20), 50)
    store = write_store(tmp_path / "s", rows, tokens={"document": document_N}, **SMALL)
    assert store.plan.splits["heldout"] == (900, 1000)
    few = write_store(tmp_path / "few", rows, tokens={"document": document_N // 3}, **SMALL)
    assert few.plan.splits == {"train": (0, 1000), "heldout": (1000, 1000)}, "seven documents have no tenth"


def test_batches_are_served_from_it(tmp_path: Path, rows) -> None:
    store = write_store(tmp_path / "s", rows, **SMALL)
    seen = np.concatenate([Batches(store, SITE, filters=Filters(), batch_size=90).batch(t)[0] for t in range(10)])
    assert sorted(map(tuple, seen)) == sorted(map(tuple, rows[SITE][:900]))


def test_a_memory_map_gives_the_same_store(tmp_path: Path, rows) -> None:
    np.save(tmp_path / "rows.npy", rows[SITE])
    mapped = write_store(tmp_path / "a", {SITE: np.load(tmp_path / "rows.npy", mmap_mode="r")}, **SMALL)
    assert mapped.id == write_store(tmp_path / "b", {SITE: rows[SITE]}, **SMALL).id


def test_an_interrupted_store_is_finished_by_the_same_rows_only(
    tmp_path: Path, rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, calls = UnitWriter.commit, []

    def third_time_fails(self: UnitWriter) -> bool:
        calls.append(self)
        if len(calls) == 3:
            raise OSError("the disk is gone")
        return commit(self)

    monkeypatch.setattr(UnitWriter, "commit", third_time_fails)
    with pytest.raises(OSError, match="the disk is gone"):
        write_store(tmp_path / "s", rows, **SMALL)
    other = {**rows, SITE: rows[SITE] + 1}
    with pytest.raises(StoreError, match="holds the store of another plan"):
        write_store(tmp_path / "s", other, **SMALL)
    store, n_before = write_store(tmp_path / "s", rows, **SMALL), len(calls)
    assert n_before == 3 + store.plan.n_units - 2
    assert store.id == write_store(tmp_path / "whole", rows, **SMALL).id
    write_store(tmp_path / "s", rows, **SMALL)
    assert len(calls) == n_before + store.plan.n_units, "a finished store is left as it is"


def test_other_rows_are_another_store(tmp_path: Path, rows) -> None:
    """Control: without the hash of its rows in the plan both would be served in one order and stand for each other."""
    first = write_store(tmp_path / "a", rows, **SMALL)
    assert read_plan(write_store(tmp_path / "b", {**rows, SITE: -rows[SITE]}, **SMALL).path).id != first.plan.id


class Counted:
    """Rows that are no array: only what is asked for is made, and how many at a time is counted."""

    def __init__(self, rows: np.ndarray) -> None:
        self.shape, self.dtype, self._rows, self.asked = rows.shape, rows.dtype, rows, []

    def __getitem__(self, rows: slice) -> np.ndarray:
        found = self._rows[rows]
        self.asked.append(len(found))
        return found


def test_rows_and_tokens_are_read_in_pieces_from_anything_that_is_sliced(tmp_path: Path) -> None:
    n_rows = 3 * TOKEN_ROWS_PER_CHUNK // 2
    rows, document_N = Counted(stored_rows(SITE, n_rows, 2)), Counted(np.arange(n_rows) // 7)
    store = write_store(
        tmp_path / "s", {SITE: rows}, tokens={"document": document_N}, heldout=0.5, chunk_bytes=2**14, shard_bytes=2**18
    )
    hashed, *written = rows.asked
    assert hashed == sum(written) == n_rows, "less than 4 MiB are hashed at once"
    assert max(written) == store.plan.rows_per_chunk == 2048
    assert max(document_N.asked) == TOKEN_ROWS_PER_CHUNK
    assert verify(store.path, deep=True) == []
    np.testing.assert_array_equal(store.rows(SITE, 0, n_rows), stored_rows(SITE, n_rows, 2))
    np.testing.assert_array_equal(store.token_map("position", 0, n_rows), np.arange(n_rows) % 7)
    n_documents = -(-n_rows // 7)
    assert store.plan.n_documents == n_documents
    assert store.plan.splits["train"] == (0, (n_documents - n_documents // 2) * 7)


def test_a_document_falls_where_two_pieces_meet(tmp_path: Path) -> None:
    document_N = np.full(TOKEN_ROWS_PER_CHUNK + 5, 3)
    document_N[TOKEN_ROWS_PER_CHUNK:] = 2
    rows = {SITE: np.ones((len(document_N), 1), np.float32)}
    with pytest.raises(StoreError, match=f"falls after row {TOKEN_ROWS_PER_CHUNK - 1}"):
        write_store(tmp_path / "s", rows, tokens={"document": document_N})


def test_where_rows_come_from_stands_for_their_hash(tmp_path: Path, rows) -> None:
    told = {"imported": {"files": {"a.npy": "0" * 64}}}
    counted = Counted(rows[SITE])
    store = write_store(tmp_path / "s", {SITE: counted}, provenance=told, **SMALL)
    assert store.plan.provenance == told
    assert sum(counted.asked) == N_ROWS


def test_rows_that_no_store_may_hold_leave_none_behind(tmp_path: Path, rows) -> None:
    rows[SITE][900] = np.nan
    with pytest.raises(UnfitRows, match=f"site {SITE}, row 900"):
        write_store(tmp_path / "s", rows, **SMALL)
    assert list(tmp_path.iterdir()) == []
    sound = write_store(tmp_path / "s", {"mine": rows["mine"]}, **SMALL)
    with pytest.raises(StoreError, match="another plan"):
        write_store(tmp_path / "s", rows, **SMALL)
    assert verify(sound.path, deep=True) == [], "that of others stays"


def test_more_words_than_a_store_can_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given_tokens, "MAX_WORDS", 20)
    rows = {SITE: np.ones((30, 1), np.float32)}
    with pytest.raises(StoreError, match="more than 20 different ones"):
        write_store(tmp_path / "s", rows, tokens={"token_id": np.arange(30)})


FAULTS: dict[str, tuple[Callable[[dict], dict], str]] = {
    "no site": (lambda _: {"rows": {}}, "give at least one site"),
    "unequal": (lambda rows: {"rows": {**rows, "mine": rows["mine"][1:]}}, "the same number of rows"),
    "no rows": (lambda _: {"rows": {SITE: np.zeros((0, 3), np.float32)}}, "the same number of rows"),
    "float64": (lambda _: {"rows": {SITE: np.zeros((9, 3))}}, r"shape \(9, 3\), float64; give \[N, M\]"),
    "flat": (lambda _: {"rows": {SITE: np.zeros(9, np.float32)}}, r"shape \(9,\)"),
    "a NaN": (lambda rows: {"rows": {**rows, SITE: rows[SITE] * np.nan}}, f"site {SITE}, row 0.*nan"),
    "a name": (lambda rows: {"rows": {"../x": rows[SITE]}}, "site name"),
    "a field": (lambda rows: {"rows": rows, "tokens": {"tokens": np.zeros(N_ROWS, int)}}, "no fields of the token map"),
    "short": (lambda rows: {"rows": rows, "tokens": {"flags": np.zeros(3, int)}}, "give 1000 integers"),
    "fractions": (lambda rows: {"rows": rows, "tokens": {"position": np.zeros(N_ROWS)}}, "give 1000 integers"),
    "negative": (lambda rows: {"rows": rows, "tokens": {"token_id": np.full(N_ROWS, -1)}}, "from -1 to -1; allowed: 0"),
    "a flag": (lambda rows: {"rows": rows, "tokens": {"flags": np.full(N_ROWS, 8)}}, "from 8 to 8; allowed: 0 to 7"),
    "falls": (lambda rows: {"rows": rows, "tokens": {"document": np.arange(N_ROWS)[::-1]}}, "falls after row 0"),
    "nameless": (lambda rows: {"rows": rows, "vocabulary": {1: Token(b"a", False)}}, "does not say what token 0 is"),
    "splits": (lambda rows: {"rows": rows, "splits": {"train": (0, 7)}}, "do not cover the rows exactly once"),
    "encoding": (lambda rows: {"rows": rows, "encoding": "float8"}, "float8"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused(tmp_path: Path, rows, fault: str) -> None:
    change, message = FAULTS[fault]
    arguments = change(rows)
    with pytest.raises(StoreError, match=message):
        write_store(tmp_path / "s", arguments.pop("rows"), **arguments, **SMALL)
    with pytest.raises(StoreError):
        ActivationStore.open(tmp_path / "s")
