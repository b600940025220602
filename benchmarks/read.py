"""How fast a store serves mixed batches, against copying blocks of a plain np.memmap that holds the same rows.

    python benchmarks/read.py

Ours is `Batches.batch(step)`: two threads put rows where the mix wants them, one draws the mix, and a batch is a view.
The plain side is one thread that copies the same blocks, in a permuted order, over a batch's worth of memory that stays
in the cache: it mixes nothing, checks nothing, and could hardly be faster. Every round first lets the other side's
threads finish, and ends when our next window is full, so that no work is left out. Files are in the page cache.
The window is the default one, so that it holds the whole store, and a quarter of it where the name says so.
CPU ratios hold on a busy machine too, where the clock favours whoever has more threads.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.toy import sized
from strata_sae.stores import ActivationStore, Batches, Filters
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.format.vocabulary import Token
from strata_sae.stores.reading.masks import permutation
from strata_sae.stores.writing.finishing import finish_store
from strata_sae.stores.writing.planning import create_store, layout
from strata_sae.stores.writing.units import UnitWriter

SITE = "blocks.8.hook_resid_post"
BATCH = 4096
WINDOW_ROWS = 2**20
N_ROUNDS = sized(7, 1)
N_ROWS, WIDE_ROWS = sized((2**18, 2**20), (2**14, 2**15))
DOCUMENT_ROWS = 512


class Timing(NamedTuple):
    """Nanoseconds a row."""

    wall: float
    cpu: float


def make_store(path: Path, n_rows: int, d_model: int, encoding: str) -> tuple[ActivationStore, np.memmap]:
    """A store of random rows, and the same rows in a plain file."""
    sizes = layout({SITE: d_model}, encoding, 2**21, 2**28)
    row_N = np.arange(n_rows)
    tokens = {
        "token_id": np.zeros(n_rows, np.int32),
        "document": row_N // DOCUMENT_ROWS,
        "position": (row_N % DOCUMENT_ROWS).astype(np.int32),
        "flags": (row_N % 64 == 0).astype(np.uint8),  # a BOS every so often, for the filters
    }
    plan = create_store(
        path,
        iter([tokens]),
        {0: Token(b"a", special=False)},
        n_rows=n_rows,
        n_documents=-(-n_rows // DOCUMENT_ROWS),
        splits={"train": (0, n_rows), "heldout": (n_rows, n_rows)},
        sites={SITE: d_model},
        encoding=encoding,
        compressor="none",
        rows_per_chunk=sizes.rows_per_chunk,
        rows_per_unit=sizes.rows_per_unit,
        config={},
        provenance={},
    )
    dtype = plan.site_specs[SITE]["values"].dtype
    plain = np.memmap(path.with_suffix(".bin"), dtype, "w+", shape=(n_rows, d_model))
    noise_RM = np.random.default_rng(0).standard_normal((sizes.rows_per_chunk, d_model)).astype(np.float32)
    files = FileSystem()
    for unit in range(plan.n_units):
        start, stop = plan.unit_rows(unit)
        writer = UnitWriter(files, path, plan, unit, tokens["flags"][start:stop])
        for first in range(start, stop, len(noise_RM)):
            rows_RM = noise_RM * np.float32(1 + first / n_rows)
            plain[first : first + len(rows_RM)] = rows_RM.view(np.uint32) >> 16 if dtype == "<u2" else rows_RM
            writer.append(SITE, np.asarray(plain[first : first + len(rows_RM)]))
        writer.commit()
    finish_store(files, path, plan)
    return ActivationStore.open(path), plain


def timed(job: Callable[[], None], n_rows: int) -> Timing:
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return Timing(1e9 * (time.perf_counter() - wall) / n_rows, 1e9 * (time.process_time() - cpu) / n_rows)


class Reader:
    """Serves one epoch after another."""

    def __init__(self, path: Path, window_rows: int, filters: Filters = Filters()) -> None:
        # Readers that share an opened store would share its mapped pages too.
        self._batches = Batches(
            ActivationStore.open(path), SITE, batch_size=BATCH, window_rows=window_rows, filters=filters
        )
        self.n_rows = self._batches.n_rows
        self._steps = self.n_rows // BATCH
        self._step = 0

    def epoch(self) -> None:
        """Every row once, and the next window made ready."""
        for _ in range(self._steps):
            self._batches.batch(self._step)
            self._step += 1
        for window in self._batches._windows._pending:
            if window is not None:
                window.result()

    def check(self, plain: np.memmap) -> None:
        """The rows served are the rows of the plain file."""
        rows_BM, number_B = self._batches.batch(self._step)
        assert (rows_BM == plain[number_B]).all(), "the store serves other rows than were written"

    def close(self) -> None:
        """Stop the threads."""
        self._batches.close()


def copy_blocks(plain: np.memmap, order: list[int], block_rows: int, target: np.ndarray) -> None:
    place = 0
    for block in order:
        target[place : place + block_rows] = plain[block * block_rows : (block + 1) * block_rows]
        place = (place + block_rows) % len(target)


def against_plain(folder: Path, encoding: str, n_rows: int = N_ROWS, d_model: int = 768) -> None:
    store, plain = make_store(folder / encoding, n_rows, d_model, encoding)
    block_rows = store.plan.rows_per_chunk
    order = permutation("blocks", n_rows // block_rows).tolist()
    targets = {rows: np.ones((rows, d_model), plain.dtype) for rows in (BATCH, n_rows)}
    copy_blocks(plain, order, block_rows, targets[BATCH])
    reader, quarter = Reader(store.path, WINDOW_ROWS), Reader(store.path, n_rows // 4)
    first = timed(reader.epoch, n_rows)
    quarter.epoch()
    ours, ours_quarter, small, large = [], [], [], []
    for _ in range(N_ROUNDS):
        ours.append(timed(reader.epoch, n_rows))
        ours_quarter.append(timed(quarter.epoch, n_rows))
        small.append(timed(lambda: copy_blocks(plain, order, block_rows, targets[BATCH]), n_rows))
        large.append(timed(lambda: copy_blocks(plain, order, block_rows, targets[n_rows]), n_rows))
    for each in (reader, quarter):
        each.check(plain)
        each.close()
    name = f"{encoding} {d_model}"
    row(f"{name}, batches / blocks into a batch", ours, small, 0.7)
    row(f"{name}, batches / blocks into a window", ours, large, None)
    row(f"{name}, quarter window / blocks into a batch", ours_quarter, small, None)
    row(f"{name}, first epoch (checksums, new memory)", [first], small, None)


def over_windows(folder: Path, n_rows: int = WIDE_ROWS, d_model: int = 256) -> None:
    store, plain = make_store(folder / "wide", n_rows, d_model, "bfloat16")
    readers = {window: Reader(store.path, window) for window in (2**13, 2**15, 2**17, 2**20) if window <= n_rows}
    times: dict[int, list[Timing]] = {window: [] for window in readers}
    for reader in readers.values():
        reader.epoch()
    for _ in range(N_ROUNDS):
        for window, reader in readers.items():
            times[window].append(timed(reader.epoch, n_rows))
    for window, reader in readers.items():
        reader.check(plain)
        reader.close()
        row(f"bfloat16 {d_model}, window 2^{window.bit_length() - 1} / 2^13", times[window], times[2**13], 0.85)


def with_filters(folder: Path, n_rows: int = N_ROWS, d_model: int = 768) -> None:
    store, _ = make_store(folder / "filtered", n_rows, d_model, "bfloat16")
    everything, filtered = Reader(store.path, 2**16), Reader(store.path, 2**16, Filters(True, True, True, 1.25))
    n_kept = filtered.n_rows
    everything.epoch()
    filtered.epoch()
    ours, other = [], []
    for _ in range(N_ROUNDS):
        ours.append(timed(filtered.epoch, n_kept))
        other.append(timed(everything.epoch, n_rows))
    for each in (everything, filtered):
        each.close()
    row(f"filters that keep {n_kept / n_rows:.1%} of rows / none", ours, other, None)


def row(what: str, ours: list[Timing], other: list[Timing], target: float | None) -> None:
    """One line: speeds by the clock, and the ratio of speeds by the clock (and its range) and by CPU time."""
    middle = [Timing(*map(statistics.median, zip(*side, strict=True))) for side in (ours, other)]
    rounds = [b.wall / a.wall for a, b in zip(ours, other, strict=False)]
    print(
        f"{what:50s} {1e3 / middle[0].wall:8.2f} {1e3 / middle[1].wall:8.2f} {statistics.median(rounds):7.2f} "
        f"({min(rounds):.2f}..{max(rounds):.2f}) {middle[1].cpu / middle[0].cpu:7.2f} {target or '':>8}",
        flush=True,
    )


def main() -> None:
    heads = ("million rows a second", "ours", "other", "ratio", "of rounds", "by CPU", "target")
    print("{:50s} {:>8} {:>8} {:>7} {:>12} {:>7} {:>8}".format(*heads))
    for encoding in ("float32", "bfloat16"):
        with tempfile.TemporaryDirectory(prefix="strata-read-") as folder:
            against_plain(Path(folder), encoding)
    with tempfile.TemporaryDirectory(prefix="strata-read-") as folder:
        with_filters(Path(folder))
    with tempfile.TemporaryDirectory(prefix="strata-read-") as folder:
        over_windows(Path(folder))


if __name__ == "__main__":
    main()
