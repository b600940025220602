"""What is open stays what it was: another store, or another file, at the same path is never read in its place."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from strata_sae.stores import ActivationStore, StoreError
from strata_sae.stores.files import mounts, places
from strata_sae.stores.reading import checking
from support.small_store import build_store, stored_rows

N_ROWS, SITE, WIDTH = 1000, "blocks.1.hook_resid_post", 8
SITES = {SITE: WIDTH}
FIELDS = ("token_id", "document", "position", "flags")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return build_store(tmp_path / "store", N_ROWS, SITES, shard_bytes=4096)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A store of the same form whose rows are others."""
    path = tmp_path / "other"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("support.small_store.stored_rows", lambda *arguments: stored_rows(*arguments) + 1)
        build_store(path, N_ROWS, SITES, shard_bytes=4096)
    return path


def store_files(store: Path) -> list[Path]:
    return sorted(path.relative_to(store) for path in store.rglob("*") if path.is_file())


def move_away(store: Path, other: Path) -> None:
    store.rename(store.with_name("away"))
    other.rename(store)


def replace_files(store: Path, other: Path) -> None:
    for name in store_files(other):
        (other / name).rename(store / name)


def write_over(store: Path, other: Path) -> None:
    """Into the very files, without ever cutting them: a map of a file that shrinks would kill this process."""
    for name in store_files(other):
        (store / name).chmod(0o644)
        with (store / name).open("r+b") as file:
            file.write((other / name).read_bytes())


def write_over_keeping_size_and_order_of_time(store: Path, other: Path) -> None:
    write_over(store, other)
    for name in store_files(store):
        os.utime(store / name, ns=(0, (store / name).stat().st_mtime_ns - 10**9))


CHANGES = [move_away, replace_files, write_over, write_over_keeping_size_and_order_of_time]


def read_everything(opened: ActivationStore) -> tuple[int, list[str]]:
    """How many pieces were the opened store's, and what was said of the others. Raises: AssertionError at a row that
    is not the opened store's.
    """
    expected_NM = stored_rows(SITE, N_ROWS, WIDTH)
    right, refused = 0, []
    for first in range(0, N_ROWS, 50):
        stop = min(first + 50, N_ROWS)
        for read, expected in (
            (lambda a=first, b=stop: opened.rows(SITE, a, b), expected_NM[first:stop]),
            (lambda a=first, b=stop: opened.norms(SITE, a, b), np.linalg.norm(expected_NM[first:stop], axis=1)),
        ):
            try:
                found = read()
            except StoreError as error:
                refused.append(str(error))
            else:
                np.testing.assert_allclose(found, expected, rtol=1e-5)
                right += 1
    return right, refused


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("n_open_files", [256, 2])
@pytest.mark.parametrize("n_read_before", [0, N_ROWS])
def test_what_lies_at_the_path_later_is_never_read(
    store: Path,
    other: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, Path], None],
    io: str,
    n_open_files: int,
    n_read_before: int,
) -> None:
    monkeypatch.setattr(places, "_OPEN_FILES", n_open_files)
    opened = ActivationStore.open(store, io=io)
    opened.rows(SITE, 0, n_read_before)
    opened.norms(SITE, 0, n_read_before)
    change(store, other)
    right, refused = read_everything(opened)
    assert right or refused
    if n_open_files == 2:
        assert refused, "nearly every file is opened again"
    for message in refused:
        assert str(store / "activations.zarr" / "sites" / SITE) in message
        assert "replaced or written to" in message or "was written to while it is read" in message
    for field in FIELDS:
        with pytest.raises(StoreError, match=rf"tokens/{field}/c/0: is not the file that was there"):
            opened.token_map(field, 0, 10)


@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("change", CHANGES)
def test_control_without_identities_the_new_bytes_are_handed_out(
    store: Path, other: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path, Path], None], io: str
) -> None:
    monkeypatch.setattr(places.LocalPlace, "_check", lambda self, path, found: None)
    place = ActivationStore.open(store, io=io)._site(SITE)[1]._place
    shards = [name for name in map(str, store_files(store)) if f"{SITE}/values/c/" in name]
    new = {name: (other / name).read_bytes() for name in shards}
    change(store, other)
    assert [name for name in shards if place.open(name).read(0, len(new[name])).tobytes() != new[name]] == []


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_control_without_a_look_at_the_time_a_write_is_served(store: Path, other: Path, io: str) -> None:
    opened = ActivationStore.open(store, io=io)
    read_everything(opened)
    write_over(store, other)
    for array in (*opened.values(SITE)._arrays, opened._site(SITE)[1]):  # type: ignore[attr-defined]
        for file in array._files._open.values():
            status = os.stat(file._path)
            file._identity, file._written = places.identity_of(status), (status.st_size, status.st_mtime_ns)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        read_everything(opened)


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_what_is_deleted_is_an_error_with_its_name(store: Path, monkeypatch: pytest.MonkeyPatch, io: str) -> None:
    monkeypatch.setattr(places, "_OPEN_FILES", 2)
    opened = ActivationStore.open(store, io=io)
    opened.rows(SITE, 0, 10)
    shutil.rmtree(store)
    refused = read_everything(opened)[1]
    assert refused
    assert all("cannot be read (No such file or directory; it was deleted or moved" in message for message in refused)


def test_a_change_of_rights_or_of_reading_time_is_no_other_file(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_OPEN_FILES", 2)
    opened = ActivationStore.open(store)
    for name in store_files(store):
        (store / name).chmod(0o400)
        status = (store / name).stat()
        os.utime(store / name, ns=(0, status.st_mtime_ns))
        os.link(store / name, store.with_name("linked"))
        store.with_name("linked").unlink()
    assert read_everything(opened)[1] == []


def test_without_lasting_inode_numbers_size_and_time_have_to_do(
    store: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mounts"
    table.write_text(f"/dev/sda / ext4 rw 0 0\nx {tmp_path} fuse.bucket rw 0 0\n", encoding="utf-8")
    monkeypatch.setattr(mounts, "_MOUNTS", table)
    opened = ActivationStore.open(store)
    copy = store.with_name("copy")
    shutil.copytree(store, copy)  # times are kept, and inode numbers are others
    shutil.rmtree(store)
    copy.rename(store)
    assert read_everything(opened)[1] == []
    opened = ActivationStore.open(store)
    move_away(store, other)
    assert read_everything(opened)[0] == 0


@pytest.mark.parametrize("deleted", [False, True])
def test_a_store_replaced_while_it_is_opened_is_refused(
    store: Path, other: Path, monkeypatch: pytest.MonkeyPatch, deleted: bool
) -> None:
    walk, changed = checking._walk, []

    def walk_later(*arguments: object) -> object:
        if not changed:
            changed.append(True)
            move_away(store, other)
        found = list(walk(*arguments))  # type: ignore[arg-type]
        if deleted and arguments[1] == ".":
            (store / "MANIFEST.json").unlink(missing_ok=True)
        return iter(found)

    monkeypatch.setattr(checking, "_walk", walk_later)
    with pytest.raises(StoreError, match=r"was replaced while it was opened|its sha256 is not the one"):
        ActivationStore.open(store)
