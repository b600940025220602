"""How fast mixed batches reach a trainer: Strata against SAELens's cache, with the same rows and the same window.

    make peers && .venv-peers/bin/python benchmarks/loaders.py [window ...]

Every measurement has a process of its own, forked before anything is mapped or computed, and serves float32 tensors
[4096, 768] of which the receiver reads a few columns. `first` is from opening the reader until as many rows were served
as there are (ours: with checksums and fresh memory), `second` is the epoch after that, `cold` is `first` after the
files were dropped from the page cache; `read` is what then came from disk. SAELens mixes contexts that it reads in
order; it adds 4096 tokens to its buffer at a time by default, or, the best there is for it, half a buffer. `distinct`:
how many of the rows served first were not the same row. Sides take turns; ratios are of medians, with the range. On a
busy machine the clock favours whoever has more threads (we have four, SAELens one, torch's own apart): `by CPU` is the
second epoch's rows over the CPU time of all threads.
"""

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.toy import sized, skipped

N_ROWS = int(os.environ.get("STRATA_LOADERS_ROWS", sized(2**18, 2**15)))
D_MODEL = 768
BATCH = 4096
CONTEXT = 128
ROUNDS = sized({2**13: 2, 2**16: 3, 2**18: 1}, {2**13: 1})
"""Rounds for each window. A wide one takes SAELens minutes."""
COLUMNS = 32
SITE = "blocks.8.hook_resid_post"
TARGET = 10


class Measured(NamedTuple):
    """Rows a second, in the second epoch a second of CPU too; MiB from disk; distinct rows among those served first."""

    first: float
    second: float
    cpu: float
    disk: float
    distinct: int


def strata(path: Path, window: int) -> Iterator[Any]:
    from strata_sae.pipeline.loaders import activation_batches
    from strata_sae.stores import ActivationStore

    return activation_batches(ActivationStore.open(path), SITE, batch_size=BATCH, window_rows=window)


def saelens(path: Path, window: int, slice_tokens: int = BATCH) -> Iterator[Any]:
    import torch
    from sae_lens.training.activations_store import ActivationsStore

    warnings.filterwarnings("ignore", message="All samples")  # it says so after every epoch
    return ActivationsStore(
        model=None,
        dataset=None,
        streaming=False,
        hook_name=SITE,
        hook_head_index=None,
        context_size=CONTEXT,
        d_in=D_MODEL,
        n_batches_in_buffer=window // CONTEXT,
        total_training_tokens=N_ROWS,
        store_batch_size_prompts=slice_tokens // CONTEXT,
        train_batch_size_tokens=BATCH,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
        cached_activations_path=str(path),
    )


def make_stores(folder: Path) -> None:
    """The same rows as two stores and as a SAELens cache, laid out as its CacheActivationsRunner leaves one."""
    from datasets import Array2D, Dataset, Features, Sequence, Value, disable_progress_bars
    from read import make_store
    from sae_lens.cache_activations_runner import CacheActivationsRunner

    disable_progress_bars()
    make_store(folder / "bfloat16", N_ROWS, D_MODEL, "bfloat16")
    _, plain = make_store(folder / "float32", N_ROWS, D_MODEL, "float32")
    columns = {SITE: Array2D((CONTEXT, D_MODEL), "float32"), "token_ids": Sequence(Value("int32"), length=CONTEXT)}
    (folder / "saelens").mkdir()
    shard_rows = 2**15
    for number, first in enumerate(range(0, N_ROWS, shard_rows)):
        rows = np.asarray(plain[first : first + shard_rows]).reshape(-1, CONTEXT, D_MODEL)
        tokens = np.zeros(rows.shape[:2], np.int32)
        shard = Dataset.from_dict({SITE: rows, "token_ids": tokens}, features=Features(columns))
        shard.save_to_disk(folder / "shards" / f"shard_{number:05d}", num_shards=1)
    CacheActivationsRunner._consolidate_shards(folder / "shards", folder / "saelens", copy_files=False)
    for file in folder.glob("*.bin"):
        file.unlink()


def drop_from_page_cache(folder: Path) -> None:
    """Works because this process maps none of the files, and no other one is alive that does."""
    for file in filter(Path.is_file, folder.rglob("*")):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def warm(folder: Path) -> None:
    for file in filter(Path.is_file, folder.rglob("*")):
        with file.open("rb") as opened:
            while opened.read(2**24):
                pass


def in_a_process(job: Callable[..., Any], *arguments: Any) -> Any:
    """What `job` returns in a forked process. This process must not have used torch's threads."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(job(*arguments)))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def mebibytes_read() -> float:
    """What this process made the disk read so far."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes")) / 2**20


def measure(reader: Callable[[], Iterator[Any]], epochs: int) -> Measured:
    disk, wall, cpu, parts = mebibytes_read(), [time.perf_counter()], [time.process_time()], []
    batches = reader()
    for epoch in range(epochs):
        for x_BM in islice(batches, N_ROWS // BATCH):
            assert x_BM.shape == (BATCH, D_MODEL)
            some = x_BM[:, :COLUMNS].numpy().copy()
            if epoch == 0:
                parts.append(some)
        wall.append(time.perf_counter())
        cpu.append(time.process_time())
    seen = np.concatenate(parts)
    distinct = len(np.unique(seen.view((np.void, seen.strides[0]))))
    speed, last = (N_ROWS / (times[-1] - times[-2]) for times in (wall, cpu))
    return Measured(N_ROWS / (wall[1] - wall[0]), speed, last, mebibytes_read() - disk, distinct)


def compare(folder: Path, window: int) -> None:
    """Measure both sides with one window, in turns; print a line each and our ratios."""
    sides: dict[str, tuple[Path, Callable[[], Iterator[Any]]]] = {
        "strata float32": (folder / "float32", lambda: strata(folder / "float32", window)),
        "strata bfloat16": (folder / "bfloat16", lambda: strata(folder / "bfloat16", window)),
        "saelens": (folder / "saelens", lambda: saelens(folder / "saelens", window)),
        "saelens, half-buffer slices": (folder / "saelens", lambda: saelens(folder / "saelens", window, window // 2)),
    }
    warmed: dict[str, list[Measured]] = {name: [] for name in sides}
    cold: dict[str, list[Measured]] = {name: [] for name in sides}
    for times, prepare, epochs in ((warmed, warm, 2), (cold, drop_from_page_cache, 1)):
        for _ in range(ROUNDS.get(window, 1)):
            for name, (path, reader) in sides.items():
                prepare(path)
                times[name].append(in_a_process(measure, reader, epochs))
    kinds = {
        "first": (warmed, "first"),
        "second": (warmed, "second"),
        "by CPU": (warmed, "cpu"),
        "cold": (cold, "first"),
    }
    for name in sides:
        speeds = " ".join(f"{median(times[name], what):10,.0f}" for times, what in kinds.values())
        disk, distinct = min(one.disk for one in cold[name]), min(one.distinct for one in warmed[name])
        print(f"{window:7d} {name:28s} {speeds} {disk:7.0f} {distinct:9,}", flush=True)
    for ours, theirs in product(list(sides)[:2], list(sides)[2:]):
        texts = (f"{head} {ratio(times[ours], times[theirs], what)}" for head, (times, what) in kinds.items())
        print(f"{window:7d}   {ours} / {theirs}: {', '.join(texts)}", flush=True)


def median(side: list[Measured], what: str) -> float:
    return statistics.median(getattr(one, what) for one in side)


def ratio(ours: list[Measured], theirs: list[Measured], what: str) -> str:
    """Of the medians, and the range over the rounds."""
    rounds = [getattr(a, what) / getattr(b, what) for a, b in zip(ours, theirs, strict=True)]
    return f"{median(ours, what) / median(theirs, what):.1f} ({min(rounds):.1f}..{max(rounds):.1f})"


def main(windows: Sequence[int]) -> int:
    if find_spec("sae_lens") is None:
        return skipped("no sae_lens here; run: make peers && .venv-peers/bin/python benchmarks/loaders.py")
    import sae_lens.training.activations_store  # noqa: F401  (once, for every process forked from this one)

    import strata_sae.pipeline.loaders  # noqa: F401

    with tempfile.TemporaryDirectory(prefix="strata-loaders-") as name:
        folder = Path(name)
        in_a_process(make_stores, folder)
        print(f"rows a second; {N_ROWS} rows of {D_MODEL}; target: {TARGET} times SAELens at a window of {2**16}")
        heads = ("window", "reader", "first", "second", "by CPU", "cold", "read", "distinct")
        print("{:>7} {:28s} {:>10} {:>10} {:>10} {:>10} {:>7} {:>9}".format(*heads), flush=True)
        for window in windows:
            compare(folder, window)
    return 0


if __name__ == "__main__":
    sys.exit(main([int(window) for window in sys.argv[1:]] or list(ROUNDS)))
