"""What it costs to know that a file is the one that was opened, and a copy the one that its name says.

    python benchmarks/addresses.py

A store in the page cache, served in mixed batches: with the look at its file that the reading of each chunk makes, and
with that look taken out. Then a staging folder, opened anew and read in order each time: with stamps, and with each
copy hashed again. CPU time; sides take turns. Nothing is trained, so these are the largest shares the looks can have.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from read import SITE, Reader, make_store

from benchmarks.toy import sized
from strata_sae.stores import ActivationStore
from strata_sae.stores.files import places
from strata_sae.stores.reading import staged

N_ROWS, N_ROUNDS = sized(2**17, 2**12), sized(9, 1)
D_MODEL, N_EPOCHS = 768, 4
TARGET = 1.02


def seconds(job: Callable[[], None]) -> float:
    began = time.process_time()
    job()
    return time.process_time() - began


def unlooked(self: object, offset: int, n_bytes: int) -> np.ndarray:
    """`_MappedFile.read` without its look at the file."""
    return self._data[offset : offset + n_bytes]  # type: ignore[attr-defined]


def show(what: str, ours: list[float], other: list[float], target: float | None) -> None:
    ratios = [a / b for a, b in zip(ours, other, strict=True)]
    print(
        f"{what:60s} {1e3 * statistics.median(ours):8.1f} {1e3 * statistics.median(other):8.1f} "
        f"{statistics.median(ratios):7.3f} ({min(ratios):.3f}..{max(ratios):.3f}) {target or '':>6}",
        flush=True,
    )


def main() -> None:
    print(f"{'CPU milliseconds':60s} {'with':>8s} {'without':>8s} {'ratio':>7s} {'of rounds':16s} {'target':>6s}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, _ = make_store(folder / "store", N_ROWS, D_MODEL, "bfloat16")
        reader = Reader(store.path, N_ROWS // 2)

        def staged_epochs() -> None:
            near = ActivationStore.open(store.path, stage=folder / "near")
            for _ in range(N_EPOCHS):
                for chunk in range(-(-N_ROWS // store.plan.rows_per_chunk)):
                    near.values(SITE).coded(chunk)[0].copy()

        reader.epoch()
        staged_epochs()
        ours, other, stamped, trusted, hashed = [], [], [], [], []
        for _ in range(N_ROUNDS):
            ours.append(seconds(reader.epoch))
            with mock.patch.object(places._MappedFile, "read", unlooked):
                other.append(seconds(reader.epoch))
            stamped.append(seconds(staged_epochs))
            with mock.patch.object(staged, "read_stamp", lambda lock: staged.stamp_of(lock.with_suffix(""), lock.stem)):
                trusted.append(seconds(staged_epochs))
            with mock.patch.object(staged, "read_stamp", return_value=None):
                hashed.append(seconds(staged_epochs))
        reader.close()
        show("an epoch of batches, a look at the file before each chunk", ours, other, TARGET)
        show(f"staged, opened and read {N_EPOCHS} times, stamps", stamped, trusted, TARGET)
        show(f"staged, opened and read {N_EPOCHS} times, every copy hashed", hashed, trusted, None)


if __name__ == "__main__":
    main()
