"""D2, D3, D5, D6, D7: what a reader meets on a disk that is damaged, flaky, shrinking or read-only."""

import errno
import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from strata_sae.stores import ActivationStore, Batches, Filters, StoreError, verify
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.format.plan_file import read_plan
from strata_sae.stores.format.shards import ArraySpec
from strata_sae.stores.writing.finishing import finish_store
from strata_sae.stores.writing.units import UnitWriter
from support.small_store import build_store, plan_store, stored_rows, token_map

N_ROWS = 400
SITE, OTHER = "blocks.0.hook_resid_post", "blocks.10.hook_resid_post"
SITES = {SITE: 8, OTHER: 8}
NOBODY = 65534


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return writable(build_store(tmp_path / "store", N_ROWS, SITES, shard_bytes=4096))


def writable(path: Path) -> Path:
    for file in path.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    return path


def shards(path: Path) -> Iterator[tuple[Path, ArraySpec]]:
    plan = read_plan(path)
    for specs in (plan.token_specs, *plan.site_specs.values()):
        for spec in specs.values():
            yield from ((path / spec.shard_path(shard), spec) for shard in range(spec.n_shards))


def refused(path: Path) -> str:
    with pytest.raises(StoreError) as caught:
        ActivationStore.open(path)
    return str(caught.value)


# ---- D2: cut where nothing looks torn


def test_a_shard_cut_at_any_boundary_inside_is_named(store: Path) -> None:
    n_cuts = 0
    for shard, spec in shards(store):
        data = shard.read_bytes()
        index = np.frombuffer(data[-16 * spec.chunks_per_shard - 4 : -4], "<u8").reshape(-1, 2)
        ends = {int(offset + size) for offset, size in index if offset != 2**64 - 1}
        ends |= {len(data) - 4 - 16 * entry for entry in range(min(spec.chunks_per_shard, 8) + 1)}
        for end in sorted(ends | {0}):
            os.truncate(shard, end)
            assert f"{shard.relative_to(store)}: {end} bytes instead of {len(data)}" in refused(store)
            shard.write_bytes(data)
            n_cuts += 1
    assert verify(store, deep=True) == []
    print(f"{n_cuts} cuts at the ends of chunks and of index entries")


def test_swapped_sites_are_named(store: Path) -> None:
    first, second = (store / "activations.zarr" / "sites" / site for site in SITES)
    first.rename(store / "aside")
    second.rename(first)
    (store / "aside").rename(second)
    problems = verify(store, deep=True)
    assert any(f"sites/{SITE}/values/c/0/0" in problem for problem in problems)
    group = zarr.open_group(store / "activations.zarr", mode="r", zarr_format=3)  # the control: it sees nothing
    np.testing.assert_array_equal(np.asarray(group[f"sites/{SITE}/values"][:]), stored_rows(OTHER, N_ROWS, 8))


def test_plain_zarr_shows_an_empty_or_missing_shard_as_fill_value(store: Path) -> None:
    shard = store / "activations.zarr" / "sites" / SITE / "values" / "c" / "0" / "0"
    values = zarr.open_array(shard.parents[2], mode="r", zarr_format=3)
    for damage in (lambda: os.truncate(shard, 0), shard.unlink):
        damage()
        assert np.isnan(np.asarray(values[:])[:64]).all()
        assert "values/c/0/0" in refused(store)


# ---- D3: a disk that fails now and then


class FlakyDisk:
    """Fails reads at random: errors, pieces that are too short, ends that come too soon, files that are not there."""

    def __init__(self, seed: int) -> None:
        self.noise, self.pread, self.open, self.n_failed = random.Random(seed), os.pread, os.open, 0

    def read(self, descriptor: int, n_bytes: int, offset: int) -> bytes:
        luck = self.noise.random()
        if luck < 0.05:
            self.n_failed += 1
            raise OSError(self.noise.choice([errno.EIO, errno.ESTALE]), "I/O error")
        if luck < 0.08:
            self.n_failed += 1
            raise TimeoutError(errno.ETIMEDOUT, "timed out")
        if luck < 0.11:
            self.n_failed += 1
            return b""
        return self.pread(descriptor, n_bytes if luck > 0.5 else max(1, n_bytes // 3), offset)

    def find(self, path: Path, flags: int, *arguments: int, **named: int) -> int:
        if self.noise.random() < 0.05:
            self.n_failed += 1
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return self.open(path, flags, *arguments, **named)


def test_reads_that_fail_are_errors_and_never_rows(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = stored_rows(SITE, N_ROWS, 8)
    outcomes = {"read": 0, "refused": 0}
    messages = set()
    for seed in range(150):
        disk = FlakyDisk(seed)
        opened = ActivationStore.open(store, io="pread")
        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", disk.read)
            patch.setattr(os, "open", disk.find)
            for first in range(0, N_ROWS, 90):
                try:
                    rows = opened.rows(SITE, first, min(first + 90, N_ROWS))
                except StoreError as error:
                    messages.add(str(error))
                    outcomes["refused"] += 1
                else:
                    np.testing.assert_array_equal(rows, expected[first : first + 90])
                    outcomes["read"] += 1
    assert min(outcomes.values()) > 100
    assert all(str(store) in message for message in messages)
    print(f"150 flaky disks: {outcomes}")


def test_plain_zarr_takes_a_file_that_cannot_be_found_for_fill_value(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def lost(self: Path, *arguments: object, **named: object) -> object:
        if self.name == "0" and "values" in self.parts:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(self))
        return real(self, *arguments, **named)  # type: ignore[arg-type]

    values = zarr.open_array(store / "activations.zarr" / "sites" / SITE / "values", mode="r", zarr_format=3)
    monkeypatch.setattr(Path, "open", lost)
    assert np.isnan(np.asarray(values[:64])).any()


# ---- D5: a file that shrinks (tests/test_supervised.py has the one that is mapped meanwhile)


@pytest.mark.parametrize("io", ["pread", "mmap"])
def test_a_file_cut_after_opening_is_named(store: Path, io: str) -> None:
    opened = ActivationStore.open(store, io=io)
    shard = store / "activations.zarr" / "sites" / SITE / "values" / "c" / "1" / "0"
    os.truncate(shard, 1000)
    with pytest.raises(StoreError, match="values/c/1/0"):
        opened.rows(SITE, 128, 200)


def test_a_file_cut_while_it_is_read_is_named(store: Path) -> None:
    opened = ActivationStore.open(store, io="pread")
    np.testing.assert_array_equal(opened.rows(SITE, 0, 64), stored_rows(SITE, N_ROWS, 8)[:64])
    os.truncate(store / "activations.zarr" / "sites" / SITE / "values" / "c" / "0" / "0", 2100)
    with pytest.raises(StoreError, match=r"values/c/0/0: has 2100 bytes instead of \d+; it was cut"):
        opened.rows(SITE, 64, 128)


# ---- D6: nothing is written where nothing may be


def read_everything(path: Path) -> None:
    opened = ActivationStore.open(path)
    assert verify(path, deep=True) == []
    opened.summary()
    opened.mean_square_norm(SITE, "train", Filters(max_norm_multiple=4.0))
    with Batches(opened, SITE, batch_size=32, threads=1) as batches:
        for step in range(20):
            batches.batch(step)


def times(path: Path) -> dict[str, tuple[int, int]]:
    return {str(e): (e.stat().st_mtime_ns, e.stat().st_ctime_ns) for e in [path, *path.rglob("*")]}


def as_nobody(action: Callable[[], None]) -> int:
    """Exit code of a child without root's powers that does this: 0 done, 3 refused by the system, 1 anything else."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            action()
            code = 0
        except PermissionError:
            code = 3
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_store_that_the_user_may_not_write_is_read_without_a_trace() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = build_store(folder / "store", N_ROWS, SITES, compressor="zstd")
        for entry in [path, *path.rglob("*")]:
            entry.chmod(entry.stat().st_mode & ~0o222)
        before = times(path)
        assert as_nobody(lambda: read_everything(path)) == 0
        assert times(path) == before
        assert as_nobody((path / "trace").touch) == 3, "the control: it may really not write"
        for entry in [path, *path.rglob("*")]:
            entry.chmod(entry.stat().st_mode | 0o200)


def test_a_store_on_a_read_only_mount_is_read(store: Path) -> None:
    here = Path(tempfile.mkdtemp())  # not under tmp_path: a run that is killed here would leave pytest a mount
    mounts = [["mount", "--bind", str(store), str(here)], ["mount", "-o", "remount,bind,ro", str(here)]]
    try:
        if shutil.which("mount") is None or any(
            subprocess.run(m, capture_output=True, check=False).returncode for m in mounts
        ):
            pytest.skip("nothing can be mounted here (needs root): a read-only mount is NOT tested")
        with pytest.raises(OSError, match="Read-only"):
            (here / "trace").touch()
        read_everything(here)
    finally:
        subprocess.run(["umount", "--lazy", str(here)], capture_output=True, check=False)
        here.rmdir()


# ---- D7: rows that are odd, and rows that are none (test_commit.py: NaN and infinity by site and row)


@pytest.mark.parametrize("encoding", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", [0.0, 1.5, -65504.0])
def test_constant_rows_are_stored_and_described(tmp_path: Path, encoding: str, value: float) -> None:
    path = tmp_path / "store"
    plan = plan_store(path, 130, {SITE: 8}, encoding=encoding, shard_bytes=2**14)
    rows_NM = np.full((130, 8), value, np.float32)
    for unit in range(plan.n_units):
        start, stop = plan.unit_rows(unit)
        writer = UnitWriter(FileSystem(), path, plan, unit, token_map(130)["flags"][start:stop])
        writer.append(SITE, rows_NM[start:stop])
        writer.commit()
    finish_store(FileSystem(), path, plan)
    assert verify(path, deep=True) == []
    opened = ActivationStore.open(path)
    found = opened.float_rows(SITE, 0, 130)
    assert (found == found[0, 0]).all()
    assert found[0, 0] == pytest.approx(value, rel=2**-8)
    assert opened.statistics(SITE)["all"]["std"] == [0.0] * 8
    assert json.dumps(opened.summary(), allow_nan=False)


def test_a_number_too_large_for_float16_is_refused_by_row(tmp_path: Path) -> None:
    plan = plan_store(tmp_path / "store", 130, {SITE: 8}, encoding="float16")
    rows_NM = np.ones((130, 8), np.float32)
    rows_NM[77, 3] = 70000.0
    writer = UnitWriter(FileSystem(), tmp_path / "store", plan, 0, token_map(130)["flags"])
    with pytest.raises(StoreError, match=f"site {SITE}, row 77: .*(70000|inf)"):
        writer.append(SITE, rows_NM)
    writer.close()


def test_plain_zarr_stores_nan_without_a_word(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=(4,), chunks=(4,), dtype="f4")
    array[:] = np.array([1, np.nan, np.inf, 2], np.float32)
    assert np.isnan(np.asarray(array[:])).any()
