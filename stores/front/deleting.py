"""Deleting a store: only what its plan names, and only while nobody fills it."""

from pathlib import Path
from typing import NamedTuple

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.deletion import IsOurs, doom, half_deleted, refuse_strangers, refuse_unnamed, remove
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.files.locks import leased, planning_prefix
from strata_sae.stores.format.commits import commit_folders, commit_name, keys, statistics_name
from strata_sae.stores.format.folders import refuse_inside_a_store
from strata_sae.stores.format.plan import EXTRAS, MANIFEST, PLAN, STAGING, STATISTICS, TIMINGS, Plan
from strata_sae.stores.format.plan_file import read_plan


class Deletable(NamedTuple):
    """What `delete_store` would remove."""

    folders: list[Path]
    """The store, and what an interrupted deletion left of one of the same name."""
    store_id: str | None
    """None: unfinished, or half deleted."""


def deletable(store: Path) -> Deletable:
    """What is to be deleted of the store at a path. Raises: StoreError if nothing there is, or may be deleted now."""
    refuse_unnamed(store)
    left = [path for _, path in half_deleted(store.parent, store.name)]
    if not store.is_dir():
        if not left:
            raise StoreError(f"{store}: no such folder")
        return Deletable(left, None)
    refuse_inside_a_store(store, "STORE", may_be_one=True)
    _refuse_others(store)
    busy = sorted(leased(store / STAGING, "") | leased(store.parent, planning_prefix(store)))
    if busy:
        raise StoreError(
            f"{store}: is in use: {len(busy)} of its units or plans are being written; stop that first. If no process "
            f"is left that could, on any machine, remove {busy[0]}.lock{' and the others like it' if busy[1:] else ''}"
        )
    manifest = store / MANIFEST
    return Deletable([store, *left], file_sha256(manifest) if manifest.is_file() else None)


def delete_store(store: Path, files: FileSystem | None = None) -> None:
    """Delete a store, or the rest of one. A kill leaves a folder that `deletable` finds by the store's name.

    A process that has the store open reads on from the files that it has opened.
    Raises: StoreError if it is in use, or holds what no store holds.
    """
    files = files or FileSystem()
    for folder in deletable(store).folders:
        doomed = doom(files, folder) if folder == store else folder
        # Without a plan there is nothing left of it: the plan is removed last.
        remove(files, doomed, _ours(doomed), PLAN)


def _refuse_others(store: Path) -> None:
    try:
        ours = _ours(store)
    except StoreError as error:
        raise StoreError(f"{error}\nWithout a plan it is not known what of {store} belongs to a store") from None
    if not (store / PLAN).is_file():
        raise StoreError(f"{store}: holds no {PLAN}, so it is no store; nothing was deleted")
    refuse_strangers(store, ours)


def _ours(store: Path) -> IsOurs:
    """What belongs to the store in a folder; nothing where there is no plan. Raises: StoreError if it is damaged."""
    if not (store / PLAN).is_file():
        return lambda name: False
    names = _names(read_plan(store))
    return lambda name: name in names or name.startswith(f"{STAGING}/")


def _names(plan: Plan) -> set[str]:
    """Every path that a store of this plan may hold, but for what is being staged; a folder's ends in a slash."""
    files = {PLAN, MANIFEST, *plan.metadata_files(), *plan.files, *plan.calibration_files()}
    files |= {path for unit in range(plan.n_units) for path in plan.unit_files(unit)}
    files |= {commit_name(plan, key) for key in keys(plan)}
    files |= {statistics_name(site) for site in plan.sites}
    files |= {f"{TIMINGS}/{unit:06d}.json" for unit in range(plan.n_units)}
    fresh = {name.rpartition("/")[0] for name in files} | {*commit_folders(plan), STATISTICS, TIMINGS, STAGING, EXTRAS}
    fresh |= {f"{spec.path}/c" for spec in plan.arrays()}
    folders: set[str] = set()
    while fresh := fresh - folders - {""}:
        folders |= fresh
        fresh = {folder.rpartition("/")[0] for folder in fresh}
    return files | {f"{folder}/" for folder in folders}
