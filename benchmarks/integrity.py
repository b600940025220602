"""What it costs that a store can be trusted: checksums and syncs while it is filled, the check at opening, deep verify.

    python benchmarks/integrity.py

Filling: the demo model, two sites, one thread; the same units with crc32c, sha256 and fsync, and with all three taken
out. Sides take turns, in an order that changes every round. Opening: a store of very many tiny shard files. Deep
verify: a store in the page cache, beside a bare sha256 of the same files.
"""

import contextlib
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from extract import SITES, config, empty

from benchmarks.toy import sized
from strata_sae.pipeline.extractor.plan import planned
from strata_sae.pipeline.extractor.unit_filler import UnitFiller
from strata_sae.pipeline.language_model.loading import load
from strata_sae.stores import ActivationStore, Plan, verify
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.format.vocabulary import Token
from strata_sae.stores.writing.finishing import finish_store
from strata_sae.stores.writing.planning import create_store, layout
from strata_sae.stores.writing.units import UnitWriter

N_ROUNDS = sized(5, 1)
N_FILES = sized(10_000, 200)
VERIFIED_BYTES = sized(2**29, 2**26)
COST_TARGET, OPEN_TARGET, VERIFY_TARGET = 1.10, 1.0, 1.0


class WithoutSync(FileSystem):
    """Leaves it to the kernel when bytes reach the disk."""

    def sync(self, descriptor: int) -> None:
        """Nothing."""

    def sync_path(self, path: Path) -> None:
        """Nothing."""

    def sync_folder(self, path: Path) -> None:
        """Nothing."""


@contextlib.contextmanager
def no_checksums() -> Iterator[None]:
    """Checksums of rows that cost nothing: constants. Records of a few bytes keep their hashes."""
    digest = SimpleNamespace(update=lambda data: None, hexdigest=lambda: "0" * 64)
    crc = SimpleNamespace(value=lambda data: 0)
    with (
        mock.patch("strata_sae.stores.writing.shards.hashlib", SimpleNamespace(sha256=lambda: digest)),
        mock.patch("strata_sae.stores.writing.shards.google_crc32c", crc),
        mock.patch("strata_sae.stores.format.shards.google_crc32c", crc),
        mock.patch("strata_sae.stores.writing.units.file_sha256", return_value="0" * 64),
    ):
        yield


def filling(folder: Path, dtype: str) -> None:
    settings = config(folder / dtype, dtype)
    path = settings.store_path()
    plan = planned(settings, show_progress=False)
    capture = load(settings.model, SITES)

    def fill(files: FileSystem) -> None:
        filler = UnitFiller(files, path, plan, capture, lambda n_rows: None)
        for unit in range(plan.n_units):
            filler.fill(unit)
        # Token map and all are read and checked by now; what is left is the same on both sides.
        filler.close()

    def bare() -> None:
        filler = UnitFiller(WithoutSync(), path, plan, capture, lambda n_rows: None)
        for field in ("token_id", "position", "flags"):
            filler._token_map(field, 0, plan.n_rows)
        with no_checksums():
            for unit in range(plan.n_units):
                filler.fill(unit)
            filler.close()

    sides: dict[str, Callable[[], None]] = {"checked": lambda: fill(FileSystem()), "bare": bare}
    ratios = []
    for number in range(N_ROUNDS + 1):
        seconds = {}
        for name in sorted(sides, reverse=bool(number % 2)):
            began = time.perf_counter()
            sides[name]()
            seconds[name] = time.perf_counter() - began
            empty(path, plan)
        if number:  # the first round warms up
            ratios.append(seconds["checked"] / seconds["bare"])
            what = f"filling, {dtype}, round {number}: {plan.n_units} units, {plan.n_rows} rows"
            print(f"{what:58s} {seconds['checked']:8.2f} s {seconds['bare']:8.2f} s {ratios[-1]:7.3f}", flush=True)
    median = statistics.median(ratios)
    print(f"{'filling, ' + dtype + ', median':58s} {'':21} {median:7.3f}   at most {COST_TARGET}", flush=True)


def made_up_store(path: Path, n_units: int, rows_per_unit: int, sites: dict[str, int], chunk_bytes: int) -> Plan:
    """A finished store of random numbers, written without syncs: only reading it is measured."""
    n_rows = n_units * rows_per_unit
    sizes = layout(sites, "float32", chunk_bytes, rows_per_unit * max(sites.values()) * 4)
    assert sizes.rows_per_unit == rows_per_unit
    row_N = np.arange(n_rows)
    tokens = {
        "token_id": (row_N % 50).astype(np.int32),
        "document": (row_N // 100).astype(np.int64),
        "position": (row_N % 100).astype(np.int32),
        "flags": np.zeros(n_rows, np.uint8),
    }
    plan = create_store(
        path,
        ({name: array[at : at + 2**16] for name, array in tokens.items()} for at in range(0, n_rows, 2**16)),
        {token: Token(b"w%d" % token, special=False) for token in range(50)},
        n_rows=n_rows,
        n_documents=-(-n_rows // 100),
        splits={"train": (0, n_rows), "heldout": (n_rows, n_rows)},
        sites=sites,
        encoding="float32",
        compressor="none",
        rows_per_chunk=sizes.rows_per_chunk,
        rows_per_unit=rows_per_unit,
        config={},
        provenance={},
    )
    files = WithoutSync()
    rows = {site: np.random.default_rng(0).standard_normal((rows_per_unit, m), np.float32) for site, m in sites.items()}
    for unit in range(n_units):
        writer = UnitWriter(files, path, plan, unit, np.zeros(rows_per_unit, np.uint8))
        for site, rows_NM in rows.items():
            writer.append(site, rows_NM)
        writer.commit()
    finish_store(files, path, plan)
    return plan


def opening(folder: Path) -> None:
    path = folder / "tiny-files"
    plan = made_up_store(path, N_FILES // 4, 16, {"blocks.0.hook_resid_post": 4, "blocks.1.hook_resid_post": 4}, 256)
    n_files = sum(len(plan.unit_files(unit)) for unit in range(plan.n_units))
    for number in range(N_ROUNDS):
        began = time.perf_counter()
        ActivationStore.open(path)
        seconds = (time.perf_counter() - began) * 10_000 / n_files
        print(f"{f'opening, round {number + 1}: {n_files} shard files':58s} {seconds:8.3f} s per 10,000", flush=True)
    print(f"{'opening':58s} {'':21} {'':7}   at most {OPEN_TARGET} s", flush=True)


def deep_verify(folder: Path) -> None:
    path = folder / "large"
    made_up_store(path, VERIFIED_BYTES // 2**26, 2**15, {"blocks.0.hook_resid_post": 512}, 2**21)
    files = [file for file in path.rglob("*") if file.is_file()]
    n_bytes = sum(file.stat().st_size for file in files)
    for number in range(N_ROUNDS):
        began = time.process_time()
        assert verify(path, deep=True) == []
        ours = n_bytes / (time.process_time() - began) / 1e9
        began = time.process_time()
        for file in files:
            with file.open("rb") as stream:
                hashlib.file_digest(stream, "sha256")
        bare = n_bytes / (time.process_time() - began) / 1e9
        what = f"deep verify, round {number + 1}: {n_bytes / 1e6:.0f} MB"
        print(f"{what:58s} {ours:8.2f} GB/s a core; sha256 alone {bare:6.2f}", flush=True)
    print(f"{'deep verify':58s} {'':21} {'':7}   at least {VERIFY_TARGET} GB/s a core", flush=True)


def main() -> None:
    """Print every measurement beside its target."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="strata-integrity-") as name:
        opening(Path(name))
        deep_verify(Path(name))
        for dtype in ("bfloat16", "float32"):
            filling(Path(name), dtype)


if __name__ == "__main__":
    main()
