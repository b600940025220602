"""What it costs to hold every chunk against the one recorded for its place, when it is first read.

    python benchmarks/places.py

A store in the page cache is opened, and each of its chunks read once and copied, with the comparison and with it taken
out; sides take turns, in an order that changes every round. CPU time: the clock on the wall is another's on a busy
machine. Target: 1.02, by the medians of both sides.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from read import SITE, make_store

from benchmarks.toy import met, sized
from strata_sae.stores import ActivationStore
from strata_sae.stores.reading.array import StoredArray

N_ROWS = sized(2**17, 2**12)
N_ROUNDS = sized(31, 1)
TARGET = 1.02


def not_compared(array: StoredArray, chunk: int, crc: int) -> None:
    """Nothing; a mock would take longer than the comparison does."""


def first_reads(path: Path) -> float:
    """Seconds of CPU to read each chunk of a site once and copy it."""
    values = ActivationStore.open(path).values(SITE)
    target = np.empty((values.rows_per_chunk, values.shape[1]), values.coded_dtype)
    began = time.process_time()
    for chunk in range(-(-values.shape[0] // values.rows_per_chunk)):
        rows_NM, _ = values.coded(chunk)
        target[: len(rows_NM)] = rows_NM
    return time.process_time() - began


def main() -> int:
    """Exit code: 0 if the target is met."""
    compared, plain = [], []
    with tempfile.TemporaryDirectory(prefix="strata-places-") as folder:
        path = make_store(Path(folder) / "store", N_ROWS, 768, "bfloat16")[0].path
        first_reads(path)
        for number in range(N_ROUNDS):
            for comparing in (number % 2 == 0, number % 2 == 1):
                if comparing:
                    compared.append(first_reads(path))
                else:
                    with mock.patch.object(StoredArray, "_check_place", not_compared):
                        plain.append(first_reads(path))
    ratio = statistics.median(compared) / statistics.median(plain)
    print(f"first reads of {N_ROWS:,} rows: {1e9 * statistics.median(compared) / N_ROWS:.0f} ns a row, x {ratio:.3f}")
    return 0 if met(ratio <= TARGET) else 1


if __name__ == "__main__":
    sys.exit(main())
