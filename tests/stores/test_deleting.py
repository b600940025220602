"""Deleting a store: what its plan names and nothing else, not while it is filled, and again after any kill."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from strata_sae.stores import ActivationStore, StoreError, deletable, delete_store, list_stores
from strata_sae.stores.files.deletion import half_deleted
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.files.locks import Lease
from strata_sae.stores.writing.units import UnitWriter
from support.killed_at_a_step import KilledFileSystem, killed_before_step
from support.small_store import build_store, fill_unit, plan_store, stored_rows, token_map

SITE = "blocks.1.hook_resid_post"


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("options", [{}, {"encoding": "int8"}, {"encoding": "bfloat16", "compressor": "planes"}])
def test_a_store_is_deleted_whole_and_its_neighbours_stay(options: dict[str, str], tmp_path: Path) -> None:
    store, other = build_store(tmp_path / "a", **options), build_store(tmp_path / "a.b")
    there = names(other)
    found = deletable(store)
    assert found.folders == [store]
    assert found.store_id == file_sha256(store / "MANIFEST.json")
    delete_store(store)
    assert (sorted(path.name for path in tmp_path.iterdir()), names(other)) == (["a.b"], there)


def test_an_unfinished_store_and_what_dead_workers_staged_are_deleted(tmp_path: Path) -> None:
    store = tmp_path / "a"
    plan = plan_store(store)
    fill_unit(FileSystem(), store, plan, 0, {SITE: stored_rows(SITE, 1000, 16)})
    (store / "staging" / "000001-0123456789ab").mkdir()
    (store / "staging" / "000001-0123456789ab" / f"{SITE}.values").write_bytes(b"half")
    assert deletable(store).store_id is None
    delete_store(store)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_being_filled_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "a"
    plan = plan_store(store)
    before = names(store)
    writer = UnitWriter(FileSystem(), store, plan, 0, token_map(1000)["flags"][slice(*plan.unit_rows(0))])
    with pytest.raises(StoreError, match="in use: 1 of its units or plans"):
        delete_store(store)
    writer.close()
    assert set(names(store)) >= set(before)
    with Lease(FileSystem(), tmp_path / ".a.planning-0123456789ab"), pytest.raises(StoreError, match="in use"):
        delete_store(store)
    delete_store(store)
    assert not store.exists()


def add_file(store: Path) -> str:
    (store / "commits" / "notes.txt").write_text("mine")
    return "commits/notes.txt"


def add_file_to_extras(store: Path) -> str:
    (store / "extras" / "labels.csv").write_text("mine")
    return "extras/labels.csv"


def add_folder(store: Path) -> str:
    (store / "activations.zarr" / "sites" / "mine").mkdir()
    return "activations.zarr/sites/mine/"


def add_link_to_a_folder(store: Path) -> str:
    (store / "staging").mkdir(exist_ok=True)
    (store / "staging" / "big").symlink_to(store.parent / "elsewhere")
    return r"staging/big \(a link\)"


def replace_by_a_link(store: Path) -> str:
    shard = store / "plan.json"
    shutil.copy(shard, store.parent / "elsewhere" / "plan.json")
    (store / "statistics" / f"{SITE}.json").unlink()
    (store / "statistics" / f"{SITE}.json").symlink_to(store.parent / "elsewhere" / "plan.json")
    return rf"statistics/{SITE}.json \(a link\)"


STRANGERS = [add_file, add_file_to_extras, add_folder, add_link_to_a_folder, replace_by_a_link]


@pytest.mark.parametrize("add", STRANGERS)
def test_what_is_not_a_stores_is_named_and_nothing_is_deleted(add: Callable[[Path], str], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("mine")
    store = build_store(tmp_path / "a")
    said = add(store)
    before = names(tmp_path)
    with pytest.raises(StoreError, match=f"did not make there; move it elsewhere first:\n  {said}"):
        delete_store(store)
    assert names(tmp_path) == before


def test_a_link_to_a_store_and_what_is_no_store_are_refused(tmp_path: Path) -> None:
    store = build_store(tmp_path / "a")
    (tmp_path / "link").symlink_to(store)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    for name, said in [("link", "is a link"), ("folder", "is no store"), ("gone", "no such folder")]:
        with pytest.raises(StoreError, match=said):
            delete_store(tmp_path / name)
    with pytest.raises(StoreError, match="lies inside the store"):
        delete_store(store / "commits")
    damaged = build_store(tmp_path / "damaged")
    (damaged / "plan.json").chmod(0o644)
    (damaged / "plan.json").write_text("{}")
    with pytest.raises(StoreError, match="Without a plan it is not known"):
        delete_store(damaged)
    ActivationStore.open(store)
    assert (tmp_path / "folder" / "thesis.tex").exists()


@pytest.mark.parametrize("path", [".", "../a/commits/.."])
def test_a_path_without_the_folders_own_name_is_refused(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = build_store(tmp_path / "a", 400)
    monkeypatch.chdir(store)
    with pytest.raises(StoreError, match="does not end in the folder's own name"):
        delete_store(Path(path))
    ActivationStore.open(store)


def test_after_a_kill_at_any_step_the_rest_is_known_and_deleted(tmp_path: Path) -> None:
    counted = KilledFileSystem()
    delete_store(build_store(tmp_path / "counted", 400), counted)
    assert counted.steps > 20
    for step in range(counted.steps):
        root = tmp_path / str(step)
        store = build_store(root / "a", 400)
        killed_before_step(step, lambda files, store=store: delete_store(store, files))
        if step == 0:
            ActivationStore.open(store)
        else:
            assert not store.exists()
            ((was, left),) = half_deleted(root)
            assert was == "a"
            assert left == deletable(store).folders[0]
            (row,) = list_stores(root)
            assert (row.name, row.state) == ("a", "half deleted")
        delete_store(store)
        assert list(root.iterdir()) == []


def test_what_comes_into_a_folder_while_it_is_deleted_stays(tmp_path: Path) -> None:
    """Control of the removal: what was checked before is checked again."""
    store = build_store(tmp_path / "a", 400)

    class Late(FileSystem):
        def rename(self, source: Path, target: Path) -> None:
            (source / "commits" / "late").write_text("mine")
            super().rename(source, target)

    with pytest.raises(StoreError, match="commits/late"):
        delete_store(store, Late())
    ((_, left),) = half_deleted(tmp_path)
    assert names(left) == ["commits", "commits/late", "plan.json"]
    os.unlink(left / "commits" / "late")
    delete_store(store)
    assert list(tmp_path.iterdir()) == []


def test_a_new_store_of_the_same_name_goes_together_with_the_rest_of_the_old_one(tmp_path: Path) -> None:
    store = build_store(tmp_path / "a", 400)
    killed_before_step(3, lambda files: delete_store(store, files))
    build_store(store, 400)
    assert len(deletable(store).folders) == 2
    delete_store(store)
    assert list(tmp_path.iterdir()) == []
