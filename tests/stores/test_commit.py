"""W1-W3, R2, D6, D7: whoever fills a unit, and whoever dies or comes late meanwhile, the store is the same."""

import multiprocessing
import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from strata_sae.stores import ActivationStore, Batches, Filters, StoreError, verify
from strata_sae.stores.files.filesystem import FileSystem, publish_exclusive
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.format.commits import commit_path, read_commit
from strata_sae.stores.format.encodings import to_float32
from strata_sae.stores.format.plan import Plan
from strata_sae.stores.writing.finishing import finish_store, recover
from strata_sae.stores.writing.units import UnitWriter
from support.small_store import build_store, fill_missing, fill_unit, plan_store, stored_rows, token_map

SITE = "blocks.1.hook_resid_post"
N_ROWS = 300
FILES = FileSystem()
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_store(tmp_path / "store", N_ROWS, {SITE: 16}, shard_bytes=4096)


@pytest.fixture
def store(tmp_path: Path, plan: Plan) -> Path:
    return tmp_path / "store"


def rows_of(plan: Plan) -> dict[str, np.ndarray]:
    return {SITE: stored_rows(SITE, plan.n_rows, 16)}


def filled_writer(store: Path, plan: Plan, unit: int, change: float = 0.0, files: FileSystem = FILES) -> UnitWriter:
    """An attempt that has written everything and not committed."""
    start, stop = plan.unit_rows(unit)
    writer = UnitWriter(files, store, plan, unit, token_map(plan.n_rows)["flags"][start:stop])
    writer.append(SITE, rows_of(plan)[SITE][start:stop] + np.float32(change))
    return writer


def fill_all(store: Path, plan: Plan) -> None:
    fill_missing(FILES, store, plan, rows_of(plan))


def state(folder: Path) -> dict[str, tuple[int, str]]:
    """Inode-independent: size, time of change and hash of every file, and the time of every folder."""
    return {
        str(entry.relative_to(folder)): (entry.stat().st_mtime_ns, file_sha256(entry) if entry.is_file() else "")
        for entry in [folder, *folder.rglob("*")]
    }


def published(store: Path) -> dict[str, tuple[int, str]]:
    return {name: value for name, value in state(store).items() if value[1] and not name.startswith("staging")}


# ---- Several attempts


def test_the_loser_deletes_what_it_staged_and_touches_nothing_else(store: Path, plan: Plan) -> None:
    first, second = filled_writer(store, plan, 0), filled_writer(store, plan, 0, change=1.0)
    assert first.commit() is True
    before = published(store)
    assert second.commit() is False
    assert published(store) == before
    assert list((store / "staging").iterdir()) == []
    fill_all(store, plan)
    finish_store(FILES, store, plan)
    np.testing.assert_array_equal(ActivationStore.open(store).rows(SITE, 0, N_ROWS), rows_of(plan)[SITE])


def test_a_zombie_that_commits_after_the_end_changes_nothing(store: Path, plan: Plan) -> None:
    zombie = filled_writer(store, plan, 0, change=1.0)
    fill_all(store, plan)
    store_id = finish_store(FILES, store, plan)
    before = published(store)
    assert zombie.commit() is False
    assert published(store) == before
    assert ActivationStore.open(store).id == store_id
    assert verify(store, deep=True) == []


def test_a_zombie_whose_staging_was_taken_away_fails_cleanly(store: Path, plan: Plan) -> None:
    zombie = filled_writer(store, plan, 0, change=1.0)
    shutil.rmtree(zombie._commit._lease.folder)
    fill_all(store, plan)
    with pytest.raises(StoreError, match="was taken over by another process"):
        zombie.commit()
    zombie.close()
    finish_store(FILES, store, plan)
    assert verify(store, deep=True) == []


def test_a_suspended_process_that_wakes_late_loses(store: Path, plan: Plan) -> None:
    def zombie() -> None:
        writer = filled_writer(store, plan, 0, change=1.0)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(10 + writer.commit())

    child = FORK.Process(target=zombie)
    child.start()
    assert child.pid is not None
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    fill_all(store, plan)
    finish_store(FILES, store, plan)
    before = published(store)
    os.kill(child.pid, signal.SIGCONT)
    child.join()
    assert child.exitcode == 10
    assert published(store) == before


def test_an_overwriting_link_would_let_the_zombie_win(store: Path, plan: Plan) -> None:
    class Overwriting(FileSystem):
        def link(self, source: Path, target: Path) -> None:
            target.unlink(missing_ok=True)
            super().link(source, target)

    zombie = filled_writer(store, plan, 0, change=1.0, files=Overwriting())
    fill_all(store, plan)
    assert zombie.commit() is True
    finish_store(FILES, store, plan)
    assert verify(store, deep=True) != []


# ---- Damaged and foreign


@pytest.mark.parametrize("damage", [b"", b"{}\n", b'{"a":1}', b"\0" * 700])
def test_a_damaged_commit_record_is_named(store: Path, plan: Plan, damage: bytes) -> None:
    fill_unit(FILES, store, plan, 0, rows_of(plan))
    commit_path(store, plan, 0).write_bytes(damage)
    for action in (recover, finish_store):
        with pytest.raises(StoreError, match=r"commits/000/000000\.json"):
            action(FILES, store, plan)


def test_a_commit_record_of_another_plan_or_unit_is_named(store: Path, plan: Plan) -> None:
    fill_unit(FILES, store, plan, 0, rows_of(plan))
    shutil.copy(commit_path(store, plan, 0), commit_path(store, plan, 1))
    with pytest.raises(StoreError, match=r"000001\.json: it is the record of another plan or unit"):
        recover(FILES, store, plan)


def test_another_plan_at_the_same_path_is_refused_and_untouched(store: Path, plan: Plan) -> None:
    fill_unit(FILES, store, plan, 0, rows_of(plan))
    before = state(store)
    with pytest.raises(StoreError, match="store of another plan"):
        plan_store(store, N_ROWS + 1, {SITE: 16}, shard_bytes=4096)
    assert state(store) == before
    assert plan_store(store, N_ROWS, {SITE: 16}, shard_bytes=4096) == plan
    assert state(store) == before
    assert [entry.name for entry in store.parent.iterdir()] == ["store"]


def test_foreign_folders_and_files_are_refused_and_empty_ones_used(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("years of work")
    for name in ("folder", "file"):
        before = state(tmp_path / name)
        with pytest.raises(StoreError, match=f"{name}.*holds no store"):
            plan_store(tmp_path / name, N_ROWS)
        assert state(tmp_path / name) == before
    (tmp_path / "empty").mkdir()
    plan_store(tmp_path / "empty", N_ROWS)
    assert (tmp_path / "empty" / "plan.json").is_file()


def test_a_plan_that_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        plan_store(tmp_path / "store", N_ROWS, compressor="lzma")
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_store_says_how_far_it_is(store: Path, plan: Plan) -> None:
    for unit in range(2):
        fill_unit(FILES, store, plan, unit, rows_of(plan))
    for action in (lambda: ActivationStore.open(store), lambda: finish_store(FILES, store, plan)):
        with pytest.raises(StoreError, match=rf"(2|{plan.n_units - 2}) of {plan.n_units} units"):
            action()


# ---- Recovery


def commit_without_publishing(store: Path, plan: Plan, unit: int) -> UnitWriter:
    class DiesBeforePublishing(FileSystem):
        def rename(self, source: Path, target: Path) -> None:
            raise OSError("power")

    writer = filled_writer(store, plan, unit, files=DiesBeforePublishing())
    with pytest.raises(OSError, match="power"):
        writer.commit()
    writer.close()
    assert read_commit(store, plan, unit) is not None
    return writer


def test_an_error_between_commit_and_publish_keeps_the_files(store: Path, plan: Plan) -> None:
    commit_without_publishing(store, plan, 0)
    assert 0 not in recover(FILES, store, plan)
    assert list((store / "staging").iterdir()) == []
    fill_all(store, plan)
    finish_store(FILES, store, plan)
    assert verify(store, deep=True) == []


def test_a_committed_unit_is_published_from_another_attempt_with_equal_bytes(store: Path, plan: Plan) -> None:
    other = filled_writer(store, plan, 0)
    for writer in other._commit._writers.values():
        writer.finish()
    shutil.rmtree(commit_without_publishing(store, plan, 0)._commit._lease.folder)
    assert 0 not in recover(FILES, store, plan)
    other.close()
    fill_all(store, plan)
    finish_store(FILES, store, plan)
    assert verify(store, deep=True) == []


def test_a_staged_file_with_other_bytes_is_never_published(store: Path, plan: Plan) -> None:
    other = filled_writer(store, plan, 0, change=1.0)
    for writer in other._commit._writers.values():
        writer.finish()
    shutil.rmtree(commit_without_publishing(store, plan, 0)._commit._lease.folder)
    with pytest.raises(StoreError, match="committed but this file is gone"):
        recover(FILES, store, plan)
    assert not any((store / name).exists() for name in plan.unit_files(0))
    other.close()


def test_a_worker_that_commits_and_dies_during_recovery_loses_nothing(store: Path, plan: Plan) -> None:
    """The unit is looked at, then committed, then its owner dies, then the dead are cleaned up."""

    class Interleaved(FileSystem):
        done = False

        def sync_folder(self, path: Path) -> None:
            super().sync_folder(path)
            if path.parent.name == "c" and not self.done:  # unit 1 is being published: unit 0 was found missing
                self.done = True
                commit_without_publishing(store, plan, 0)

    fill_unit(FILES, store, plan, 1, rows_of(plan))
    files = Interleaved()
    assert 0 in recover(files, store, plan)
    assert files.done
    assert 0 not in recover(FILES, store, plan)
    fill_all(store, plan)
    finish_store(FILES, store, plan)
    assert verify(store, deep=True) == []


# ---- Lost replies


@pytest.mark.parametrize("made", [True, False])
def test_a_link_whose_reply_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: bool) -> None:
    real = os.link

    def lossy(source: Path, target: Path) -> None:
        if made:
            real(source, target)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "link", lossy)
    if made:
        assert publish_exclusive(FILES, tmp_path / "draft", tmp_path / "final", b"x") is True
        assert (tmp_path / "final").read_bytes() == b"x"
        assert not (tmp_path / "draft").exists()
    else:
        with pytest.raises(OSError, match="Input/output"):
            publish_exclusive(FILES, tmp_path / "draft", tmp_path / "final", b"x")
        assert not (tmp_path / "final").exists()


# ---- Rows that are no numbers


@pytest.mark.parametrize("encoding", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_by_site_and_row(tmp_path: Path, encoding: str, value: float) -> None:
    path = tmp_path / "store"
    plan = plan_store(path, N_ROWS, {SITE: 16}, encoding=encoding, shard_bytes=4096)
    rows_NM = stored_rows(SITE, N_ROWS, 16, encoding).copy()
    unit, bad = 1, plan.unit_rows(1)[0] + 7
    wide = np.array([value], np.float32)
    rows_NM[bad, 3] = (wide.view(np.uint32) >> 16).astype(np.uint16)[0] if encoding == "bfloat16" else value
    assert not np.isfinite(to_float32(rows_NM[bad])).all()
    before = published(path)
    start, stop = plan.unit_rows(unit)
    writer = UnitWriter(FILES, path, plan, unit, token_map(N_ROWS)["flags"][start:stop])
    with pytest.raises(StoreError, match=rf"site {SITE}, row {bad}: the activation holds {value}"):
        writer.append(SITE, rows_NM[start:stop])
    writer.close()
    assert published(path) == before
    assert list((path / "staging").iterdir()) == []


def test_a_norm_beyond_float32_is_refused(store: Path, plan: Plan) -> None:
    start, stop = plan.unit_rows(0)
    writer = UnitWriter(FILES, store, plan, 0, token_map(N_ROWS)["flags"][start:stop])
    with pytest.raises(StoreError, match="row 0: the activation holds a norm beyond float32"):
        writer.append(SITE, np.full((stop - start, 16), 3e38, np.float32))
    writer.close()


# ---- Finished stores


def test_a_read_only_store_is_opened_verified_and_trained_on_without_a_trace(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store", N_ROWS, {SITE: 16}, compressor="zstd")
    for entry in [path, *path.rglob("*")]:
        entry.chmod(entry.stat().st_mode & ~0o222)
    before = state(path)
    store = ActivationStore.open(path)
    assert verify(path, deep=True) == []
    store.summary()
    store.mean_square_norm(SITE, "train", Filters(max_norm_multiple=4.0))
    with Batches(store, SITE, batch_size=32) as batches:
        for step in range(20):
            batches.batch(step)
    finish_store(FILES, path, store.plan)
    assert state(path) == before
    for entry in [path, *path.rglob("*")]:
        entry.chmod(entry.stat().st_mode | 0o200)


def test_finishing_twice_is_finishing_once(store: Path, plan: Plan) -> None:
    fill_all(store, plan)
    first = finish_store(FILES, store, plan)
    before = state(store)
    assert finish_store(FILES, store, plan) == first
    assert state(store) == before
    assert all(not os.stat(store / name).st_mode & 0o222 for name in published(store))


def test_a_finish_killed_before_the_files_were_made_read_only_is_completed(store: Path, plan: Plan) -> None:
    fill_all(store, plan)
    finish_store(FILES, store, plan)
    (store / "MANIFEST.json").chmod(0o644)
    finish_store(FILES, store, plan)
    assert not os.stat(store / "MANIFEST.json").st_mode & 0o222


@pytest.mark.parametrize("attempt", range(4))
def test_several_processes_fill_and_finish_one_store(store: Path, plan: Plan, attempt: int) -> None:
    def work(seed: int) -> None:
        rng = random.Random(seed)
        while missing := recover(FILES, store, plan):
            fill_unit(FILES, store, plan, rng.choice(missing), rows_of(plan))
        finish_store(FILES, store, plan)
        os._exit(0)

    children = [FORK.Process(target=work, args=(10 * attempt + number,)) for number in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 3
    assert verify(store, deep=True) == []
    assert list((store / "staging").iterdir()) == []
    alone = build_store(store.with_name("alone"), N_ROWS, {SITE: 16}, shard_bytes=4096)
    assert ActivationStore.open(store).id == ActivationStore.open(alone).id
