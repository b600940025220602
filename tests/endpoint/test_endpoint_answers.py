"""Kept answers: written as they come, found by what was asked, whole after any kill."""

import json
import os
from pathlib import Path

import pytest

from strata_sae.pipeline.endpoint.answers import Answers, Kept
from strata_sae.pipeline.errors import CheckpointError

KEPT = Kept("[1, 0]\n\u2028 <think> " + chr(0xD800), "whole", 12, 5, 340)
OTHER = Kept("", "refused", 0, 0, 1)


def written(folder: Path, **kept: Kept) -> Path:
    answers = Answers(folder)
    for key, value in kept.items():
        answers.keep(key, value)
    answers.close()
    return max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)


def test_what_was_kept_is_found_and_nothing_else(tmp_path: Path) -> None:
    written(tmp_path / "answers", a=KEPT, b=OTHER)
    again = Answers(tmp_path / "answers")
    assert (again.get("a"), again.get("b"), again.get("c"), len(again)) == (KEPT, OTHER, None, 2)


def test_reading_makes_neither_folder_nor_file(tmp_path: Path) -> None:
    Answers(tmp_path / "answers").close()
    assert list(tmp_path.iterdir()) == []


def test_each_process_writes_a_file_of_its_own_and_all_are_read(tmp_path: Path) -> None:
    first, second = Answers(tmp_path), Answers(tmp_path)
    first.keep("a", KEPT)
    second.keep("b", OTHER)
    second.keep("a", OTHER)
    first.close()
    second.close()
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    together = Answers(tmp_path)
    assert together.get("b") == OTHER
    # Of two answers to one request it is always the same one: that of the first file by name.
    first_by_name = Answers(tmp_path)
    assert together.get("a") == first_by_name.get("a")


@pytest.mark.parametrize("n_bytes", [1, 2, 40, 10_000])
def test_a_torn_last_line_is_dropped_and_the_others_stay(tmp_path: Path, n_bytes: int) -> None:
    path = written(tmp_path, a=KEPT, b=OTHER)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(whole.index(b"\n") + 1, len(whole) - n_bytes)])
    again = Answers(tmp_path)
    assert (again.get("a"), again.get("b")) == (KEPT, None)


def test_every_prefix_of_a_file_can_be_read(tmp_path: Path) -> None:
    """A kill, or a power cut, at any byte."""
    path = written(tmp_path, a=KEPT, b=OTHER)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        assert len(Answers(tmp_path)) == (end >= first) + (end == len(whole))


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace(b"[1, 0]", b"[1, 1]"),
        lambda line: b"\n",
        lambda line: b"[]\n",
        lambda line: b"1\n",
        lambda line: line.replace(b'"ms":340', b'"ms":341'),
        lambda line: line.replace(b'"ending":"whole"', b'"ending":"cut"'),
        lambda line: b"[" * 100_000 + b"\n",
        lambda line: line.replace(b'{"answer', b'{ "answer'),
    ],
)  # fmt: skip
def test_a_damaged_line_is_refused_by_its_number(tmp_path: Path, damage: object) -> None:
    path = written(tmp_path, a=KEPT, b=OTHER)
    first, second = path.read_bytes().splitlines(keepends=True)
    assert callable(damage)
    path.write_bytes(damage(first) + second)
    with pytest.raises(CheckpointError, match=r"line 1 is damaged or was edited; delete that line"):
        Answers(tmp_path)
    path.write_bytes(second)  # as the message says
    assert Answers(tmp_path).get("b") == OTHER


def test_a_write_that_fails_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(tmp_path)
    answers.keep("a", KEPT)
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        real(descriptor, bytes(data)[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space") as raised:
        answers.keep("b", OTHER)
    assert str(raised.value.filename).endswith(".jsonl")
    monkeypatch.setattr(os, "write", real)
    answers.keep("c", OTHER)
    answers.close()
    again = Answers(tmp_path)
    assert (again.get("a"), again.get("b"), again.get("c")) == (KEPT, None, OTHER)


def test_an_answer_is_on_the_disk_when_keep_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.extend(path.read_bytes() for path in tmp_path.glob("*.jsonl"))

    monkeypatch.setattr(os, "fsync", fsync)
    answers = Answers(tmp_path)
    answers.keep("a", KEPT)
    assert json.loads(synced[-1])["text"] == KEPT.text
    answers.close()
