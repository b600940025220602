"""Whoever writes a codes store, and whatever kills them: the bytes are the same, and what was told to be there is."""

import errno
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from strata_sae.stores import (
    CodesStore,
    StoreError,
    claim_segment,
    create_codes,
    finish_codes,
    missing_segments,
    verify_codes,
    write_segment,
)
from strata_sae.stores.codes import filling
from strata_sae.stores.codes.writing import finishing_claim
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.format.plan import MANIFEST
from support.full_disk import disk
from support.killed_deriving import FORK, Counting, contents, killed_at
from support.made_codes import D_SAE, dense_codes, made_plan, made_table, make_codes, segment_codes
from support.power_cuts import Disk, RecordingFileSystem

N_KILLS, N_CUTS, N_FULL = 20, 30, 15
PLAN = made_plan()


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder whose fsync takes no time."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hash of every file of an undisturbed codes store."""
    make_codes(path := tmp_path_factory.mktemp("codes") / "codes")
    assert verify_codes(path) == []
    return contents(path)


def test_killed_at_any_step_it_ends_in_the_same_bytes(memory: Path, reference: dict[str, str]) -> None:
    make_codes(memory / "counted", files=(counting := Counting()))
    kept = seen = 0
    for _ in killed_at(lambda files: make_codes(memory / "codes", files=files), counting.steps, N_KILLS):
        left = {path.name for path in (memory / "codes/segments").glob("*")}
        kept += bool(left)
        make_codes(memory / "codes")
        assert contents(memory / "codes") == reference
        assert list((memory / "codes/staging").iterdir()) == []
        shutil.rmtree(memory / "codes")
        seen += 1
    assert seen >= N_KILLS
    assert 0 < kept < seen


def told(path: Path, files: RecordingFileSystem) -> None:
    """The whole life of a codes store, acknowledging what a user is told."""
    create_codes(path, PLAN, files=files)
    files.acknowledge("begun")
    for segment in missing_segments(path, PLAN):
        write_segment(path, PLAN, segment, segment_codes(PLAN, segment), files=files)
        files.acknowledge(segment)
    finish_codes(path, PLAN, made_table(PLAN), files=files)
    files.acknowledge("finished")


def lost(tmp_path: Path, n_cuts: int, *, durable: bool) -> int:
    """Number of power cuts, of so many over all steps, that lose what was acknowledged, or leave what cannot go on."""
    (root := tmp_path / "live").mkdir()
    files = RecordingFileSystem(durable=durable)
    told(root / "codes", files)
    reference = contents(root / "codes")
    rng, power, played, failures = random.Random(1), Disk(root), 0, 0
    for number, n_steps in enumerate(sorted(rng.randrange(len(files.steps) + 1) for _ in range(n_cuts))):
        for step in files.steps[played:n_steps]:
            power.apply(step)
        played = n_steps
        state = tmp_path / f"state-{number}"
        power.crash(rng, state)
        try:
            if power.acknowledged:
                missing = missing_segments(state / "codes", PLAN)
                assert not [segment for segment in missing if segment in power.acknowledged]
            if "finished" in power.acknowledged:
                assert verify_codes(state / "codes") == []
            make_codes(state / "codes")
            assert contents(state / "codes") == reference
        except (AssertionError, StoreError, OSError):
            failures += 1
            if durable:
                raise
        shutil.rmtree(state)
    return failures


def test_nothing_acknowledged_is_lost_in_a_power_cut(memory: Path) -> None:
    assert lost(memory, N_CUTS, durable=True) == 0


def test_without_fsync_the_same_cuts_lose_data(memory: Path) -> None:
    assert lost(memory, N_CUTS // 2, durable=False) >= 5


def _worker(path: Path, seed: int) -> None:
    """Makes what it can claim, in an order of its own, and finishes."""
    create_codes(path, PLAN)
    rng = random.Random(seed)
    while missing := missing_segments(path, PLAN):
        for segment in rng.sample(missing, len(missing)):
            held = claim_segment(path, PLAN, segment)
            if held is not None:
                with held:
                    write_segment(path, PLAN, segment, segment_codes(PLAN, segment))
    finish_codes(path, PLAN, made_table(PLAN))


def test_four_workers_at_once_make_the_same_bytes(tmp_path: Path, reference: dict[str, str]) -> None:
    workers = [FORK.Process(target=_worker, args=(tmp_path / "codes", seed)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert contents(tmp_path / "codes") == reference


def test_a_segment_is_claimed_by_one_and_what_is_there_by_none(tmp_path: Path) -> None:
    create_codes(folder := tmp_path / "codes", PLAN)
    held = claim_segment(folder, PLAN, 1)
    assert held is not None
    assert claim_segment(folder, PLAN, 1) is None
    write_segment(folder, PLAN, 1, segment_codes(PLAN, 1))
    held.release()
    assert claim_segment(folder, PLAN, 1) is None
    assert missing_segments(folder, PLAN) == [0, 2]


def test_a_segment_that_is_there_stays_and_so_does_a_finished_store(tmp_path: Path) -> None:
    plan = make_codes(folder := tmp_path / "codes")
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    write_segment(folder, plan, 0, segment_codes(plan, 0))
    finish_codes(folder, plan, {"count_all": np.zeros(D_SAE, np.int64)})
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()} == before


def test_it_is_not_finished_while_a_segment_is_missing(tmp_path: Path) -> None:
    create_codes(folder := tmp_path / "codes", PLAN)
    write_segment(folder, PLAN, 2, segment_codes(PLAN, 2))
    with pytest.raises(StoreError, match=r"2 of 3 segments are missing; run strata codes again"):
        finish_codes(folder, PLAN, {})
    for look in (CodesStore.open, lambda folder: CodesStore.open(str(folder), PLAN)):
        with pytest.raises(StoreError, match="no finished codes store; make it with strata codes"):
            look(folder)
    assert verify_codes(folder) == [f"{folder}: no finished codes store; make it with strata codes"]


def test_finishing_waits_for_the_process_that_is_at_it(tmp_path: Path) -> None:
    create_codes(folder := tmp_path / "codes", PLAN)
    for segment in range(3):
        write_segment(folder, PLAN, segment, segment_codes(PLAN, segment))
    other, waits = finishing_claim(folder), []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        assert not (folder / MANIFEST).exists()
        if len(waits) == 3 and other is not None:
            other.release()

    finish_codes(folder, PLAN, made_table(PLAN), wait=wait)
    assert len(waits) == 3
    assert verify_codes(folder) == []


def test_what_reads_back_otherwise_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_codes(folder := tmp_path / "codes", PLAN)
    monkeypatch.setattr(filling.StoredSegment, "crc32c", lambda self, name: 1)
    with pytest.raises(StoreError, match="reads back otherwise than it was written"):
        write_segment(folder, PLAN, 0, segment_codes(PLAN, 0))
    assert missing_segments(folder, PLAN) == [0, 1, 2]
    assert list((folder / "staging").iterdir()) == []


class Flipping(FileSystem):
    """A disk that changes one bit of what it is given."""

    def write(self, descriptor: int, data: bytes | memoryview) -> None:
        flipped = bytearray(data)
        flipped[len(flipped) // 2] ^= 1
        super().write(descriptor, bytes(flipped))


def test_a_disk_that_changes_bits_is_noticed_before_a_segment_appears(tmp_path: Path) -> None:
    create_codes(folder := tmp_path / "codes", PLAN)
    with pytest.raises(StoreError, match=r"segments/0000\.zarr"):
        write_segment(folder, PLAN, 0, segment_codes(PLAN, 0), files=Flipping())
    assert missing_segments(folder, PLAN) == [0, 1, 2]


def test_a_full_disk_names_a_file_and_with_room_it_goes_on(memory: Path, reference: dict[str, str]) -> None:
    with disk() as counted:
        make_codes(memory / "counted")
    for full_from in range(1, counted.n_writes, max(1, counted.n_writes // N_FULL)):
        folder = memory / f"codes-{full_from}"
        with disk(full_from), pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
            make_codes(folder)
        assert str(caught.value.filename).startswith(str(memory))
        make_codes(folder)
        assert contents(folder) == reference
        shutil.rmtree(folder)


def test_what_a_dead_writer_left_is_removed(tmp_path: Path, reference: dict[str, str]) -> None:
    def dies(files: FileSystem) -> None:
        create_codes(tmp_path / "codes", PLAN)
        assert claim_segment(tmp_path / "codes", PLAN, 0) is not None
        write_segment(tmp_path / "codes", PLAN, 0, segment_codes(PLAN, 0), files=files)

    child = FORK.Process(target=dies, args=(Counting(40),))
    child.start()
    child.join()
    left = sorted(path.name.split("-")[0] for path in (tmp_path / "codes/staging").iterdir())
    assert left == ["claim", "draft", "draft"]
    create_codes(tmp_path / "codes", PLAN)
    assert list((tmp_path / "codes/staging").iterdir()) == []
    make_codes(tmp_path / "codes")
    assert contents(tmp_path / "codes") == reference


def test_a_damaged_segment_is_no_missing_one(tmp_path: Path) -> None:
    create_codes(folder := tmp_path / "codes", PLAN)
    write_segment(folder, PLAN, 0, segment_codes(PLAN, 0))
    record = folder / "segments/0000.zarr/record.json"
    record.write_bytes(record.read_bytes().replace(b'"segment":0', b'"segment":1'))
    with pytest.raises(StoreError, match=r"record.json: damaged, or the record of another segment"):
        missing_segments(folder, PLAN)


def test_no_codes_are_made_inside_an_activation_store(tmp_path: Path) -> None:
    (tmp_path / "store/activations.zarr").mkdir(parents=True)
    (tmp_path / "store/plan.json").touch()
    with pytest.raises(StoreError, match="nothing is written into a store"):
        create_codes(tmp_path / "store/codes", PLAN)


def test_other_weights_make_other_codes(tmp_path: Path, reference: dict[str, str]) -> None:
    """Control: equal bytes are equal because the codes are."""
    make_codes(tmp_path / "codes", made_plan(weights_sha256="e" * 64))
    other = contents(tmp_path / "codes")
    assert {name for name in other if other[name] != reference[name]} == {
        "codes.json",
        MANIFEST,
        *(f"segments/000{i}.zarr/record.json" for i in range(3)),
    }
    assert dense_codes(PLAN, seed=1).tobytes() != dense_codes(PLAN).tobytes()
