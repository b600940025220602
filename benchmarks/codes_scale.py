"""A codes store at 65,536 latents: bytes a pair, the time to write and to read it, and the memory both take.

    python benchmarks/codes_scale.py

One segment of a million rows with about 64 active latents each: latents are drawn with log-normal densities (sigma 1.2,
as of trained SAEs, the densest active on a seventh of the rows), values are half-normal above 1. Times are processor
seconds; a latent is read from a codes store that was just opened, then again. Writing stands beside `zlib.crc32` of
the same arrays, so that it can be compared between machines. Exit code 1 if what is read is not what was written, or a
pair takes more than 7.5 bytes, the process more than 1.5 GiB, or the densest latent more than 300 ms.
"""

import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from memory import mebibytes

from benchmarks.toy import met, sized
from strata_sae.pipeline.kernels.machine.compiled.postings import transposed
from strata_sae.stores import (
    CodesPlan,
    CodesStore,
    SegmentCodes,
    create_codes,
    finish_codes,
    verify_codes,
    write_segment,
)

D_SAE, N_ROWS, K = sized((65_536, 1_000_000, 64), (4_096, 5_000, 16))
ROWS_AT_ONCE = 10_000
MOST_BYTES_A_PAIR, MOST_GIBIBYTES, MOST_SECONDS = 7.5, 1.5, 0.3
T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and the processor seconds that it took."""
    began = time.process_time()
    found = work()
    return found, time.process_time() - began


def synthetic() -> SegmentCodes:
    """Codes of all rows: K draws of a latent each, of which a few fall on the same one."""
    rng = np.random.default_rng(0)
    densities = rng.lognormal(0, 1.2, D_SAE)
    edges_E = np.cumsum(densities) / densities.sum()
    latents, counts, done = np.empty(N_ROWS * K, np.uint32), [np.zeros(1, np.int64)], 0
    for first in range(0, N_ROWS, ROWS_AT_ONCE):
        n_rows = min(ROWS_AT_ONCE, N_ROWS - first)
        drawn = np.minimum(np.searchsorted(edges_E, rng.random((n_rows, K))), D_SAE - 1)
        drawn.sort(axis=1)
        fresh = np.diff(drawn, axis=1, prepend=-1) > 0
        counts.append(fresh.sum(axis=1))
        some = drawn[fresh]
        latents[done : done + len(some)] = some
        done += len(some)
    offset, latents = np.cumsum(np.concatenate(counts)), latents[:done]
    values = np.empty(done, np.float32)
    for first in range(0, done, 2**20):
        values[first : first + 2**20] = 1 + np.abs(rng.standard_normal(len(values[first : first + 2**20])))
    return SegmentCodes(offset, latents, *transposed(offset, latents, values, D_SAE))


def read_back(folder: Path, plan: CodesPlan, codes: SegmentCodes) -> bool:
    """Print what reading takes. Returns: whether it is in time."""
    _, seconds = timed(lambda: CodesStore.open(folder, plan))
    print(f"open                        {1e3 * seconds:8.1f} ms")
    counts_E, slowest = np.diff(codes.latent_offset), 0.0
    _, seconds = timed(lambda: CodesStore.open(folder, plan).count_E)
    print(f"count_E, from opening on    {1e3 * seconds:8.1f} ms")
    for name, latent in (("median", int(np.argsort(counts_E)[D_SAE // 2])), ("densest", int(counts_E.argmax()))):
        opened = CodesStore.open(folder, plan)
        (rows, values), cold = timed(lambda opened=opened, latent=latent: opened.rows_of(latent))
        _, warm = timed(lambda opened=opened, latent=latent: opened.rows_of(latent))
        some = slice(int(codes.latent_offset[latent]), int(codes.latent_offset[latent + 1]))
        assert np.array_equal(rows, codes.latent_row[some])
        assert np.array_equal(values, codes.latent_value[some])
        print(f"rows_of, {name:8} {len(rows):>9,} {1e3 * cold:8.1f} ms, again {1e3 * warm:.2f} ms")
        slowest = max(slowest, cold)
    opened = CodesStore.open(folder, plan)
    (_, latents), seconds = timed(lambda: opened.latents_of(N_ROWS // 2, N_ROWS // 2 + 128))
    first, last = codes.row_offset[[N_ROWS // 2, N_ROWS // 2 + 128]].tolist()
    assert np.array_equal(latents, codes.row_latent[first:last])
    print(f"latents_of 128 rows         {1e3 * seconds:8.1f} ms")
    return slowest <= MOST_SECONDS


def main() -> int:
    codes = synthetic()
    n_pairs = len(codes.row_latent)
    plan = CodesPlan({"site": "0" * 64}, "0" * 64, "0" * 64, "0" * 64, "site", "synthetic", D_SAE, N_ROWS)
    print(
        f"{D_SAE:,} latents, {N_ROWS:,} rows, {n_pairs:,} pairs; the densest on {np.diff(codes.latent_offset).max():,}"
    )
    _, beside = timed(lambda: [zlib.crc32(array.data) for array in codes])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "codes"
        create_codes(folder, plan)
        _, seconds = timed(lambda: write_segment(folder, plan, 0, codes))
        finish_codes(folder, plan, {})
        print(f"written in {seconds:.1f} s ({1e9 * seconds / n_pairs:.0f} ns a pair, {seconds / beside:.0f} x crc32)")
        for array in ("latent/gap", "latent/value", "row/latent", "latent/offset", "row/offset"):
            n_bytes = (folder / f"segments/0000.zarr/{array}/c/0").stat().st_size
            print(f"  {array:14} {n_bytes / n_pairs:6.3f} bytes a pair")
        bytes_a_pair = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / n_pairs
        print(f"  all            {bytes_a_pair:6.3f} bytes a pair")
        in_time = read_back(folder, plan, codes)
        gibibytes = mebibytes("/proc/self/status", "VmHWM") / 1024
        print(f"peak resident set so far, with the codes in memory: {gibibytes:.2f} GiB")
        found, seconds = timed(lambda: verify_codes(folder))
        print(f"verified in {seconds:.1f} s: {found or 'whole'}")
    small = bytes_a_pair <= MOST_BYTES_A_PAIR and gibibytes <= MOST_GIBIBYTES
    return 0 if found == [] and met(small and in_time) else 1


if __name__ == "__main__":
    sys.exit(main())
