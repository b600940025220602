"""Compiled loops are kept on disk; whatever happened to them there, they are compiled again and give equal bits."""

import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numba
import pytest

from strata_sae.pipeline.kernels.machine.compiled import loops
from strata_sae.pipeline.kernels.machine.compiled.loops import CheckedCache, Entries
from support.small_run import store_for_training

ROOT = Path(__file__).parents[2]


def doubled(number):
    return 2 * number


def kept_in(place: Path):
    loop = numba.njit(doubled)
    loop._cache = CheckedCache(doubled, place)
    return loop


def entry(place: Path) -> Path:
    (path,) = place.glob("*.loop")
    return path


@pytest.fixture
def no_memory():
    loops.folder.cache_clear()
    yield
    loops.folder.cache_clear()


def test_a_loop_is_compiled_once_for_all_processes(tmp_path):
    first, second = kept_in(tmp_path), kept_in(tmp_path)
    assert first(21) == 42
    assert second(21) == 42
    assert [sum(loop.stats.cache_hits.values()) for loop in (first, second)] == [0, 1]


def flipped(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << place % 8
    return bytes(changed)


DAMAGES = {
    "empty": lambda data: b"",
    "cut in its hash": lambda data: data[:20],
    "cut": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"\0",
    **{f"flipped {n}": lambda data, n=n: flipped(data, n * (len(data) - 1) // 7) for n in range(8)},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_never_unpickled_and_is_written_again(tmp_path, monkeypatch, damage):
    kept_in(tmp_path)(21)
    whole = entry(tmp_path).read_bytes()
    entry(tmp_path).write_bytes(DAMAGES[damage](whole))
    monkeypatch.setattr(pickle, "loads", lambda data: pytest.fail("damaged bytes reached pickle"))
    assert kept_in(tmp_path)(21) == 42
    monkeypatch.undo()
    again = kept_in(tmp_path)
    assert again(21) == 42
    assert sum(again.stats.cache_hits.values()) == 1


def test_control_numba_itself_unpickles_what_it_finds(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    numba.njit(cache=True)(doubled)(21)
    for path in tmp_path.rglob("*.nbc"):
        path.write_bytes(path.read_bytes()[:10])
    with pytest.raises((EOFError, pickle.UnpicklingError)):
        numba.njit(cache=True)(doubled)(21)


def test_two_entries_exchanged_are_not_believed(tmp_path):
    entries = Entries(tmp_path, "loop")
    entries.save("float32", 1)
    entries.save("float64", 2)
    one, other = tmp_path.glob("*.loop")
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert (entries.load("float32"), entries.load("float64")) == (None, None)
    one.write_bytes(first)
    other.write_bytes(second)
    assert (entries.load("float32"), entries.load("float64")) == (1, 2)


def test_an_entry_that_cannot_be_built_is_compiled_again(tmp_path):
    kept_in(tmp_path)(21)
    sound = kept_in(tmp_path)
    sound._cache._cache_file.load = lambda key: ("not", "what", "this", "version", "kept")
    assert sound(21) == 42


def test_a_full_disk_keeps_nothing_and_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert kept_in(tmp_path)(21) == 42
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variable", ["NUMBA_CACHE_DIR", "STRATA_CACHE"])
def test_the_folder_is_private(tmp_path, monkeypatch, no_memory, variable):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "c"))
    before = os.umask(0)
    try:
        place = loops.folder("1")
    finally:
        os.umask(before)
    assert place is not None
    assert place.is_relative_to(tmp_path / "c")
    assert place.stat().st_mode & 0o777 == 0o700
    assert loops.folder("2") != place


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_may_write_is_not_used(tmp_path, monkeypatch, no_memory, caplog, mode):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    place = loops.folder("1")
    assert place is not None
    place.chmod(mode)
    loops.folder.cache_clear()
    assert loops.folder("1") is None
    assert f"{place} may be written by others; chmod 700 it" in caplog.text


def test_a_folder_of_another_user_is_not_used(tmp_path, monkeypatch, no_memory, caplog):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    owner = tmp_path.stat().st_uid
    if owner == 0:
        place = loops.folder("1")
        assert place is not None
        os.chown(place, 12345, -1)
        loops.folder.cache_clear()
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert loops.folder("1") is None
    assert "belongs to another user" in caplog.text


@pytest.mark.parametrize("nowhere", ["a file", "no home"])
def test_without_a_folder_to_keep_them_in_loops_still_compile(tmp_path, monkeypatch, no_memory, caplog, nowhere):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" if nowhere == "a file" else "~nobody-of-that-name/x"))
    assert loops.compiled(doubled)(21) == 42
    assert len(caplog.records) == 1, "told once, not for each loop"


def test_training_survives_a_damaged_cache_with_equal_bits(tmp_path):
    """Every entry damaged at once, each in another way; Numba's own cache ended 3 of 5 such runs with a signal."""
    store = store_for_training(tmp_path / "store")
    whole = trained(tmp_path, "whole", store)
    entries = sorted((tmp_path / "cache").rglob("*.loop"))
    assert len(entries) > 5
    kept = {path: path.read_bytes() for path in entries}
    damaged, draw = {}, random.Random(0)
    for number, path in enumerate(entries):
        data = kept[path]
        ways = (
            b"",
            data[: draw.randrange(len(data))],
            flipped(data, draw.randrange(len(data))),
            kept[entries[number - 1]],
        )
        damaged[path] = ways[number % len(ways)]
        path.write_bytes(damaged[path])
    assert trained(tmp_path, "damaged", store) == whole
    assert not any(path.read_bytes() == damaged[path] for path in entries), "each was written again"


def trained(folder: Path, name: str, store: Path) -> str:
    work = folder / name
    work.mkdir()
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/support/train_small.py"), str(store)],
        cwd=work,
        env=os.environ
        | {"NUMBA_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_no_loop_is_kept_inside_a_store(tmp_path, monkeypatch, no_memory, caplog):
    store = store_for_training(tmp_path / "store", 500)
    before = sorted(store.rglob("*"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(store / "inside"))
    assert loops.folder("1") is None
    assert "NUMBA_CACHE_DIR" in caplog.text
    assert sorted(store.rglob("*")) == before
