"""Hashes are remembered while a file is as it was, and not one moment longer."""

import errno
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import strata_sae.pipeline.input_files as module
from strata_sae.pipeline.input_files import SETTLED_NS, SMALL_BYTES, FileState, file_sha256, forget, shown
from strata_sae.stores.files.hashing import file_sha256 as plainly

LARGE = b"a" * SMALL_BYTES


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "inputs"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number for every file whose bytes were read."""
    counted: list[int] = []
    digest = module.descriptor_sha256

    def counting(descriptor: int) -> str:
        counted.append(1)
        return digest(descriptor)

    monkeypatch.setattr(module, "descriptor_sha256", counting)
    return counted


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """All files were written long ago."""
    now = time.time_ns
    monkeypatch.setattr(module.time, "time_ns", lambda: now() + 2 * SETTLED_NS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(LARGE)
    return path


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_read_once(file: Path, read: list[int], cache: Path, tmp_path: Path) -> None:
    assert [file_sha256(file) for _ in range(3)] == [plainly(file)] * 3
    assert len(read) == 1
    (tmp_path / "link").symlink_to(file)
    assert file_sha256(tmp_path / "link") == plainly(file)
    assert len(read) == 1, "by whatever name"
    assert len(list(cache.iterdir())) == 1
    assert str(tmp_path) not in next(cache.iterdir()).read_text(), "an entry holds no path"
    forget()
    file_sha256(file)
    assert len(read) == 2
    forget()
    forget()


def rewritten(file: Path) -> None:
    file.write_bytes(b"b" * SMALL_BYTES)


def rewritten_with_its_old_time(file: Path) -> None:
    found = file.stat()
    file.write_bytes(b"b" * SMALL_BYTES)
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))


def replaced(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(b"b" * SMALL_BYTES)
    found = file.stat()
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(file)


def longer(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"b")


@pytest.mark.parametrize("change", [rewritten, rewritten_with_its_old_time, replaced, longer])
@pytest.mark.usefixtures("settled")
def test_a_changed_file_is_read_again(file: Path, change: Callable[[Path], None], read: list[int]) -> None:
    before = file_sha256(file)
    change(file)
    assert before != file_sha256(file) == plainly(file)
    assert len(read) == 2


def test_a_file_written_just_before_it_was_hashed_is_not_remembered(file: Path, read: list[int], cache: Path) -> None:
    """Or a change within one tick of the file system's clock would never be seen."""
    file_sha256(file)
    assert not cache.exists()
    far = time.time_ns() + 10**12
    os.utime(file, ns=(far, far))
    file_sha256(file)
    assert not cache.exists(), "nor one of the future"
    assert len(read) == 2


@pytest.mark.usefixtures("settled")
def test_the_control_an_entry_of_the_very_state_is_believed(
    file: Path, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the two seconds and the change times are there for: without them the old hash would be given."""
    state = FileState.of(file.stat())
    monkeypatch.setattr(FileState, "of", classmethod(lambda cls, found: state))
    before = file_sha256(file)
    rewritten(file)
    assert file_sha256(file) == before != plainly(file)


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "another's", "garbage", "not an object", "folder"])
@pytest.mark.usefixtures("settled")
def test_a_damaged_entry_is_a_miss(file: Path, cache: Path, read: list[int], damage: str, tmp_path: Path) -> None:
    file_sha256(file)
    (entry,) = cache.iterdir()
    data = entry.read_bytes()
    if damage == "another's":
        other = tmp_path / "other"
        other.write_bytes(b"b" * SMALL_BYTES)
        file_sha256(other)
        (theirs,) = set(cache.iterdir()) - {entry}
        theirs.replace(entry)
        read.clear()
        read.append(1)
    elif damage == "bit":
        at = 12
        entry.write_bytes(data[:at] + (b"0" if data[at : at + 1] != b"0" else b"1") + data[at + 1 :])
    elif damage == "folder":
        entry.unlink()
        entry.mkdir()
    else:
        broken = {"cut": data[:-1], "empty": b"", "garbage": b"\xff" * 100, "not an object": b"[]\n"}
        entry.write_bytes(broken[damage])
    assert file_sha256(file) == plainly(file)
    assert len(read) == 2


@pytest.mark.usefixtures("settled")
def test_a_cache_that_cannot_be_had_costs_time_alone(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "plain").write_text("")
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "plain"))
    assert file_sha256(file) == plainly(file)
    forget()
    for name in ("STRATA_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", nobody)
    assert file_sha256(file) == plainly(file)
    forget()
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "replace", full)
    assert file_sha256(file) == plainly(file)
    assert not list((tmp_path / "cache" / "inputs").iterdir()), "no draft is left"


@pytest.mark.usefixtures("settled")
def test_many_may_remember_and_forget_at_once(file: Path) -> None:
    def often(_: int) -> set[str]:
        found = set()
        for _ in range(50):
            found.add(file_sha256(file))
            forget()
        return found

    with ThreadPoolExecutor(4) as pool:
        assert set().union(*pool.map(often, range(4))) == {plainly(file)}


def test_long_lists_are_cut() -> None:
    assert shown(("a", "b")) == "a; b"
    assert shown(tuple("abcdefg")) == "a; b; c; d; e; and 2 more"
