"""S2, S3: a store made to do harm is refused with a StoreError, quickly, in bounded memory, and runs nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from support.hostile_edits import ARRAY, SHARD, SITE, rewrite, rewrite_plan, rewrite_shard
from support.hostile_stores import GROUPS
from support.small_store import build_store

ROOT = Path(__file__).parents[2]
MAX_MEMORY_BYTES = 500 * 2**20


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = build_store(tmp_path_factory.mktemp("hostile") / "honest", 300, {SITE: 8}, compressor="zstd")
    for file in path.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    return path


@pytest.fixture
def store(honest: Path, tmp_path: Path) -> Path:
    shutil.copytree(honest, tmp_path / "store")
    return tmp_path / "store"


def read_all(paths: list[Path]) -> list[tuple[str, str, str, int]]:
    """(name, outcome, message, bytes) of each store, read by one fresh process with little memory."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "hostile_reading.py")],
        input="".join(f"{path}\n" for path in paths), capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
    assert len(found) == len(paths), f"{paths[len(found)]} ends its reader: {done.returncode} {done.stderr}"
    return found


def test_honest_stores_are_used(store: Path) -> None:
    """What is wrong with the others is not how they were made."""
    rewrite_plan(store, lambda plan: None)
    rewrite_shard(store, lambda body, index: (body, index))
    ((_, outcome, message, _),) = read_all([store])
    assert outcome == "used", message


@pytest.mark.parametrize("group", GROUPS)
def test_hostile_stores_are_refused(honest: Path, tmp_path: Path, group: str) -> None:
    paths = []
    for number, (name, change) in enumerate(GROUPS[group].items()):
        paths.append(tmp_path / f"{number}")
        shutil.copytree(honest, paths[-1])
        try:
            change(paths[-1])
        except OSError as error:  # this file system has no such files
            print(f"{name}: NOT tested ({error})")
            paths.pop()
    names = list(GROUPS[group])
    largest = 0
    wrong = []
    for number, outcome, message, n_bytes in read_all(paths):
        largest = max(largest, n_bytes)
        fine = outcome == "refused" and message.isprintable() | ("\n" in message)
        if not fine or n_bytes > MAX_MEMORY_BYTES or "\x1b" in message or "/" not in message:
            wrong.append(f"{names[int(number)]}: {outcome}, {message!r}, {n_bytes >> 20} MiB")
    assert not wrong, "\n" + "\n".join(wrong)
    assert not (tmp_path / "canary").exists()
    print(f"{group}: {len(paths)} refused; at most {largest >> 20} MiB")
    for path in tmp_path.iterdir():
        subprocess.run(["rm", "-rf", str(path)], check=True)  # Python's own rmtree does not get to the deepest folder


def test_the_corpus_is_large() -> None:
    assert sum(map(len, GROUPS.values())) >= 200


# ---- Controls: what plain readers make of some of these


def values(store: Path) -> "zarr.Array":
    group = zarr.open_group(store / "activations.zarr", mode="r", zarr_format=3)
    found = group[f"sites/{SITE}/values"]
    assert isinstance(found, zarr.Array)
    return found


def test_plain_zarr_follows_a_link_out_of_the_store(store: Path, tmp_path: Path) -> None:
    before = np.asarray(values(store)[:])
    GROUPS["files"][f"{SHARD} lies behind a link"](store)
    np.testing.assert_array_equal(np.asarray(values(store)[:]), before)


def test_plain_zarr_believes_any_shape_and_shows_what_is_not_there(store: Path) -> None:
    rewrite(store / ARRAY / "zarr.json", lambda value: value.update(shape=[2**40, 8]))
    assert values(store).shape == (2**40, 8)
    assert np.isnan(np.asarray(values(store)[10**9 : 10**9 + 2])).all()


def test_plain_zarr_reads_two_chunks_from_one_place(store: Path) -> None:
    before = np.asarray(values(store)[:])
    GROUPS["chunks"]["two chunks in one place"](store)
    after = np.asarray(values(store)[:])
    np.testing.assert_array_equal(after[64:128], before[:64])


def test_a_memory_map_reads_any_file_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"12345678")
    (tmp_path / "0").symlink_to(tmp_path / "secret")
    assert np.memmap(tmp_path / "0", np.uint8, mode="r").tobytes() == b"12345678"
