"""Ranks that read a window together serve what one alone serves, and each decodes its share of the chunks."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_store import build_store

from stores import ActivationStore, Batches, Filters, StoreError
from stores.canonical import sha256
from stores.ranks import Share

ROOT = Path(__file__).resolve().parents[2]
SITE = "blocks.1.hook_resid_post"
OPTIONS: dict[str, Any] = {"filters": Filters(drop_bos=True), "batch_size": 50, "window_rows": 512, "seed": 3}
STEPS = [*range(60), 3, 4, 90]


def exchanges(n_ranks: int) -> list[Callable[[np.ndarray], None]]:
    """What ranks hand each other when they are threads."""
    barrier, table = threading.Barrier(n_ranks), [b""] * n_ranks

    def exchange(rank: int, parts: np.ndarray) -> None:
        table[rank] = parts[rank].tobytes()
        barrier.wait(30)
        for other, data in enumerate(table):
            if other != rank:
                parts[other] = np.frombuffer(data, np.uint8)
        barrier.wait(30)

    return [lambda parts, rank=rank: exchange(rank, parts) for rank in range(n_ranks)]  # type: ignore[misc]


def served(batches: Batches, steps: list[int]) -> list[str]:
    digests = []
    for step in steps:
        rows, numbers = batches.batch(step)
        digests.append(sha256(rows.tobytes() + numbers.tobytes()))
    return digests


def counted(batches: Batches) -> list[int]:
    """The chunks that are decoded from now on."""
    chunks: list[int] = []
    coded = batches._values.coded

    def counting(chunk: int) -> Any:
        chunks.append(chunk)
        return coded(chunk)

    batches._values.coded = counting  # type: ignore[method-assign]
    return chunks


def opened(path: Path, share: Share | None) -> Batches:
    return Batches(ActivationStore.open(path), SITE, **OPTIONS, share=share)


@pytest.mark.parametrize("encoding", ["float32", "int8"])
@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_rows_of_some_ranks_are_the_rows_of_one(tmp_path: Path, encoding: str, n_ranks: int) -> None:
    path = build_store(tmp_path / "store", 3000, {SITE: 8}, compressor="zstd", encoding=encoding)
    with opened(path, None) as alone:
        total = counted(alone)
        reference = served(alone, STEPS)
    shares = [Share(rank, n_ranks, exchange) for rank, exchange in enumerate(exchanges(n_ranks))]
    ranks = [opened(path, share) for share in shares]
    decoded = [counted(batches) for batches in ranks]

    def run(batches: Batches) -> list[str]:
        with batches:
            return served(batches, STEPS)

    with ThreadPoolExecutor(n_ranks) as pool:
        assert all(digests == reference for digests in pool.map(run, ranks))
    assert sum(map(len, decoded)) <= 1.2 * len(total)
    blocks = alone.blocks_per_window
    most = -(-blocks // n_ranks) / blocks  # of the chunks of a window
    assert max(map(len, decoded)) <= 1.2 * most * len(total)


def test_damage_that_one_rank_finds_stops_all_of_them(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store", 3000, {SITE: 8})
    ranks = [opened(path, Share(rank, 2, exchange)) for rank, exchange in enumerate(exchanges(2))]

    def damaged(chunk: int) -> Any:
        raise StoreError("the file is damaged")

    ranks[1]._values.coded = damaged  # type: ignore[method-assign]

    def run(batches: Batches) -> str:
        with batches, pytest.raises(StoreError) as error:
            batches.batch(0)
        return str(error.value)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, ranks)
    assert "rank 1 could not read" in first
    assert second == "the file is damaged"


def test_when_one_stops_the_others_do_not_wait_for_it(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store", 3000, {SITE: 8})
    ranks = [opened(path, Share(rank, 2, exchange)) for rank, exchange in enumerate(exchanges(2))]
    ranks[0]._filler.stop()

    def run(batches: Batches) -> None:
        with batches, pytest.raises(CancelledError):
            batches.batch(0)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, ranks))


def test_windows_are_shared_or_split_not_both(tmp_path: Path) -> None:
    store = ActivationStore.open(build_store(tmp_path / "store", 3000, {SITE: 8}))
    with pytest.raises(StoreError, match="not both"):
        Batches(store, SITE, **OPTIONS, share=Share(0, 1, lambda parts: None), shared=tmp_path)


RANK = """
import json, sys
from datetime import timedelta
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests/stores", sys.argv[1] + "/tests/support"]
from torch import distributed
from test_stores_ranks import STEPS, counted, opened, served
from pipeline.ranks import gather_bytes
from stores.ranks import Share
rank = int(sys.argv[4])
distributed.init_process_group(
    "gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
)
group = distributed.new_group(backend="gloo")
with opened(Path(sys.argv[2]), Share(rank, 2, gather_bytes(group))) as batches:
    chunks = counted(batches)
    digests = served(batches, STEPS)
    distributed.barrier()
print(json.dumps({"digests": digests, "n_chunks": len(chunks)}))
distributed.destroy_process_group()
"""


def test_two_processes_that_speak_through_torch(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store", 3000, {SITE: 8}, compressor="zstd", encoding="bfloat16")
    arguments = [sys.executable, "-c", RANK, str(ROOT), str(path), str(tmp_path / "meet")]
    ranks = [subprocess.Popen([*arguments, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(2)]
    with opened(path, None) as alone:
        total = counted(alone)
        reference = served(alone, STEPS)
    results = [json.loads(rank.communicate(timeout=120)[0].splitlines()[-1]) for rank in ranks]
    assert all(result["digests"] == reference for result in results)
    assert all(abs(result["n_chunks"] / len(total) - 0.5) < 0.15 for result in results)
