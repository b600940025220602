"""D4: whichever step of a store's life fails, the error is clean, nothing wrong is left, and a later run is exact."""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.format.plan import MANIFEST, TIMINGS
from strata_sae.stores.format.plan_file import read_plan
from strata_sae.stores.front.verifying import verify
from strata_sae.stores.writing.finishing import finish_store, recover, write_timing
from strata_sae.stores.writing.queue import UnitQueue
from strata_sae.stores.writing.units import UnitWriter
from support.small_store import plan_store, stored_rows, token_map

N_ROWS = 260
SITES = {"blocks.1.hook_resid_post": 8}
_FAILING = ("make_folder", "create", "write", "sync", "sync_folder", "link", "rename", "unlink", "remove_folder")


class FailingFileSystem(FileSystem):
    """Raises `error` at step `fail_at`, and at every later step that needs the disk if it `lasts`."""

    def __init__(self, fail_at: int | None = None, error: int = errno.EIO, *, lasts: bool = False) -> None:
        self.fail_at, self.error, self.lasts = fail_at, error, lasts
        self.steps: list[str] = []
        self.resynced: list[Path] = []
        self._failed_syncs: set[tuple[int, int]] = set()

    def _step(self, kind: str, descriptor: int | None = None) -> None:
        number = len(self.steps)
        self.steps.append(kind)
        if descriptor is not None:
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) in self._failed_syncs:
                self.resynced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        if self.fail_at is None or number < self.fail_at or (number > self.fail_at and not self.lasts):
            return
        if number > self.fail_at and kind in ("unlink", "remove_folder"):
            return  # a full disk lets one clean up
        if descriptor is not None:
            self._failed_syncs.add((found.st_dev, found.st_ino))
        raise OSError(self.error, os.strerror(self.error))

    def sync(self, descriptor: int) -> None:
        self._step("sync", descriptor)
        super().sync(descriptor)

    def write(self, descriptor: int, data: bytes | memoryview) -> None:
        half = len(data) // 2
        if len(self.steps) == self.fail_at and half:
            super().write(descriptor, bytes(data)[:half])  # a full disk takes what fits
        self._step("write")
        super().write(descriptor, data)


def _failing(kind: str) -> Callable[..., Any]:
    def method(self: FailingFileSystem, *arguments: Any) -> Any:
        self._step(kind)
        return getattr(FileSystem, kind)(self, *arguments)

    return method


for _kind in _FAILING:
    if _kind not in ("sync", "write"):
        setattr(FailingFileSystem, _kind, _failing(_kind))


def write_store(files: FileSystem, path: Path) -> None:
    """The whole life of a store, as `extract` does it."""
    plan = plan_store(path, N_ROWS, SITES, files=files, shard_bytes=4096)
    rows = {site: stored_rows(site, N_ROWS, d_model) for site, d_model in plan.sites.items()}
    recover(files, path, plan)
    units = UnitQueue(files, path, plan)
    while (unit := units.take()) is not None:
        start, stop = plan.unit_rows(unit.number)
        try:
            flags_N = token_map(N_ROWS)["flags"][start:stop]
            with closing(UnitWriter(files, path, plan, unit.number, flags_N)) as writer:
                for site, rows_NM in rows.items():
                    writer.append(site, rows_NM[start:stop])
                writer.commit()
            unit.done()
        except OSError as error:
            unit.failed(str(error))
            raise
        write_timing(files, path, unit.number, 1, 1.0)
    finish_store(files, path, plan)


def contents(path: Path) -> dict[str, str]:
    """Hash of every file but the timings."""
    found = (file for file in sorted(path.rglob("*")) if file.is_file() and TIMINGS not in file.parts)
    return {str(file.relative_to(path)): file_sha256(file) for file in found}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(scope="module")
def folder() -> Any:
    """In memory where there is some: the tests make thousands of files."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def reference(folder: Path) -> tuple[dict[str, str], list[str]]:
    """What a store holds when nothing fails, and the steps of its life."""
    files = FailingFileSystem()
    write_store(files, folder / "reference" / "store")
    return contents(folder / "reference" / "store"), files.steps


def assert_nothing_wrong(path: Path) -> None:
    """What a failed run left is a store that goes on, or none; it never looks finished when it is not."""
    if not path.exists():
        return
    if (path / MANIFEST).exists():
        assert verify(path, deep=True) == []
    else:
        assert "unfinished" in verify(path)[0]
    plan = read_plan(path)
    for unit in set(range(plan.n_units)) - set(recover(FileSystem(), path, plan)):
        assert all((path / name).stat().st_size for name in plan.unit_files(unit))


@pytest.mark.parametrize(("error", "lasts"), [(errno.ENOSPC, True), (errno.EIO, False), (errno.EDQUOT, True)])
def test_every_step_may_fail(
    folder: Path, reference: tuple[dict[str, str], list[str]], error: int, lasts: bool
) -> None:
    expected, steps = reference
    n_failed = 0
    for step in range(len(steps)):
        path = folder / "live" / "store"
        before = open_files()
        files = FailingFileSystem(step, error, lasts=lasts)
        with pytest.raises((OSError, StoreError)):
            write_store(files, path)
        assert len(files.steps) > step
        assert not files.resynced, f"step {step}: {files.resynced} synced again after a failed sync"
        assert open_files() == before, f"step {step} ({steps[step]}): descriptors are left open"
        assert_nothing_wrong(path)
        write_store(FileSystem(), path)
        assert contents(path) == expected, f"step {step} ({steps[step]})"
        assert [entry.name for entry in path.parent.iterdir()] == ["store"]
        assert list((path / "staging").iterdir()) == []
        n_failed += 1
        shutil.rmtree(path.parent)
    print(f"{os.strerror(error)}{', lasting' if lasts else ''}: {n_failed} steps of {len(steps)} failed in turn")


class CarelessFileSystem(FailingFileSystem):
    """The control: pretends that nothing fails."""

    def _step(self, kind: str, descriptor: int | None = None) -> None:
        try:
            super()._step(kind, descriptor)
        except OSError:
            if descriptor is not None:
                super()._step(kind, descriptor)

    def write(self, descriptor: int, data: bytes | memoryview) -> None:
        if len(self.steps) == self.fail_at:
            self.steps.append("write")
            data = bytes(data)[: len(data) // 2]
            FileSystem.write(self, descriptor, data)
        else:
            super().write(descriptor, data)


def test_errors_that_are_swallowed_would_be_seen(folder: Path, reference: tuple[dict[str, str], list[str]]) -> None:
    expected, steps = reference
    path = folder / "careless" / "store"
    wrong = resynced = 0
    for step in [number for number, kind in enumerate(steps) if kind in ("write", "sync")]:
        files = CarelessFileSystem(step)
        try:
            write_store(files, path)
            wrong += contents(path) != expected
        except (OSError, StoreError):
            wrong += 1
        resynced += len(files.resynced)
        shutil.rmtree(path.parent)
    assert wrong >= 10
    assert resynced >= 10
    print(f"control: {wrong} swallowed short writes and {resynced} repeated syncs are seen")


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = Path(
        tempfile.mkdtemp()
    )  # not under tmp_path: a run that is killed here would leave pytest a mount to trip on
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here (needs root): a really full disk is NOT tested")
    try:
        filler = disk / "filler"
        outcomes = []
        for free_kib in (8, 60, 90, 120, 150):
            with filler.open("wb") as file:
                file.write(b"\0" * (248 - free_kib) * 1024)
            try:
                write_store(FileSystem(), disk / "store")
                outcomes.append("finished")
            except OSError as error:
                outcomes.append("full" if error.errno == errno.ENOSPC else str(error))
            assert_nothing_wrong(disk / "store")
        filler.unlink()
        write_store(FileSystem(), disk / "store")
        write_store(FileSystem(), tmp_path / "store")
        assert contents(disk / "store") == contents(tmp_path / "store")
        assert outcomes[0] == "full"
        assert set(outcomes) <= {"full", "finished"}
        print(f"real full disk: {outcomes}, then byte-identical")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
        disk.rmdir()
