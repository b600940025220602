"""What four trainers on a machine cost that share windows, against one trainer alone and four that do not share.

    python benchmarks/node.py

Trainers are processes that pull batches and multiply each by a small matrix, as fast as they can. Decode work is the
CPU time of the threads that fill windows, and the chunks they decode; window memory is the sum over the processes of
the PSS of their windows' mappings, so that what is shared counts once. The store is compressed, and in the page cache.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.toy import sized
from strata_sae.stores import ActivationStore, Batches
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.format.vocabulary import Token
from strata_sae.stores.writing.finishing import finish_store
from strata_sae.stores.writing.planning import create_store, layout
from strata_sae.stores.writing.units import UnitWriter

SITE = "blocks.8.hook_resid_post"
N_ROWS, D_MODEL = sized(2**18, 2**15), 512
BATCH, WINDOW_ROWS, N_EPOCHS = 2048, sized(2**15, 2**13), sized(4, 1)
N_TRAINERS = sized(4, 2)
TARGET = 1.2


def make_store(path: Path) -> None:
    """A compressed bfloat16 store of random rows."""
    sizes = layout({SITE: D_MODEL}, "bfloat16", 2**20, 2**26)
    row_N = np.arange(N_ROWS)
    tokens = {
        "token_id": np.zeros(N_ROWS, np.int32),
        "document": row_N // 512,
        "position": (row_N % 512).astype(np.int32),
        "flags": np.zeros(N_ROWS, np.uint8),
    }
    plan = create_store(
        path,
        iter([tokens]),
        {0: Token(b"a", special=False)},
        n_rows=N_ROWS,
        n_documents=N_ROWS // 512,
        splits={"train": (0, N_ROWS), "heldout": (N_ROWS, N_ROWS)},
        sites={SITE: D_MODEL},
        encoding="bfloat16",
        compressor="zstd",
        rows_per_chunk=sizes.rows_per_chunk,
        rows_per_unit=sizes.rows_per_unit,
        config={},
        provenance={},
    )
    rng, files = np.random.default_rng(0), FileSystem()
    for unit in range(plan.n_units):
        start, stop = plan.unit_rows(unit)
        writer = UnitWriter(files, path, plan, unit, tokens["flags"][start:stop])
        rows_NM = rng.standard_normal((stop - start, D_MODEL), np.float32)
        writer.append(SITE, (rows_NM.view(np.uint32) >> 16).astype(np.uint16))
        writer.commit()
    finish_store(files, path, plan)


def window_bytes(n_bytes: int, folder: str) -> int:
    """PSS of this process's windows: mappings of the shared files, or of about a window's size without a file."""
    total, counts = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)", line):
            size, name = int(head[2], 16) - int(head[1], 16), head[3]
            # Two windows of anonymous memory may lie side by side and count as one mapping.
            counts = name.startswith(folder) or (not name and n_bytes <= size < 4 * n_bytes)
        elif counts and line.startswith("Pss:"):
            total += 1024 * int(line.split()[1])
    return total


def train(path: str, folder: str, share: str) -> None:
    """One trainer; prints what it took as JSON. Waits for a line before it begins and before it ends."""
    batches = Batches(
        ActivationStore.open(path),
        SITE,
        batch_size=BATCH,
        window_rows=WINDOW_ROWS,
        shared=Path(folder) if share == "shared" else None,
    )
    coded, n_chunks = batches._values.coded, [0]

    def counting(chunk: int) -> Any:
        n_chunks[0] += 1
        return coded(chunk)

    batches._values.coded = counting  # type: ignore[method-assign]
    weights_MM = np.ones((D_MODEL, 4), np.float32)
    batches.batch(0)
    meet()
    began, own = time.perf_counter(), time.thread_time()
    all_threads = time.process_time()
    for step in range(N_EPOCHS * batches.n_rows // BATCH):
        rows_BM, _ = batches.batch(step)
        (rows_BM.astype(np.uint32) << 16).view(np.float32) @ weights_MM
    seconds = time.perf_counter() - began
    fill_seconds = time.process_time() - all_threads - (time.thread_time() - own)
    meet()
    memory = window_bytes(batches._filler.buffer_bytes(batches.blocks_per_window), folder)
    print(
        json.dumps({"seconds": seconds, "fill_cpu": fill_seconds, "chunks": n_chunks[0], "memory": memory}), flush=True
    )
    meet()
    batches.close()


def meet() -> None:
    """Wait until all are here."""
    print("here", flush=True)
    sys.stdin.readline()


def run(path: Path, folder: Path, n_trainers: int, share: str) -> dict[str, float]:
    """Sums over the trainers, and the longest time."""
    arguments = [sys.executable, __file__, str(path), str(folder), share]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    trainers = [
        subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(n_trainers)
    ]
    results: list[dict[str, float]] = []
    for round_ in range(3):
        for trainer in trainers:
            if round_ == 2:
                results.append(json.loads(trainer.stdout.readline()))
            assert trainer.stdout.readline() == "here\n"
        for trainer in trainers:
            trainer.stdin.write("\n")
            trainer.stdin.flush()
    for trainer in trainers:
        trainer.wait()
    longest = max(result.pop("seconds") for result in results)
    return {"seconds": longest} | {key: sum(result[key] for result in results) for key in results[0]}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir="/dev/shm") as windows:
        path = Path(folder) / "store"
        make_store(path)
        alone = run(path, Path(windows), 1, "private")
        print(f"{'':22}{'fill CPU':>10}{'chunks':>9}{'windows':>10}{'wall':>9}")
        ratios = {}
        sharing, apart = f"{N_TRAINERS} that share", f"{N_TRAINERS} that do not"
        for name, kind in (("1 alone", ""), (sharing, "shared"), (apart, "private")):
            result = run(path, Path(windows), N_TRAINERS, kind) if kind else alone
            ratios[name] = {key: result[key] / alone[key] for key in ("fill_cpu", "chunks", "memory")}
            print(
                f"{name:22}{result['fill_cpu']:8.2f} s{result['chunks']:9.0f}{result['memory'] / 2**20:6.0f} MiB"
                f"{result['seconds']:7.2f} s   "
                + ", ".join(f"{key} x {ratio:.2f}" for key, ratio in ratios[name].items())
            )
        worst = max(ratios[sharing].values())
        print(f"{sharing} cost at most {worst:.2f} of one alone (target {TARGET})")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train(*sys.argv[1:])
    else:
        main()
