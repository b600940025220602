"""What filling a store costs beside the forward passes alone, which nothing can do without.

    python benchmarks/extract.py

The demo model, two sites, the demo's text. Ours is `UnitFiller` over every unit: forward passes, rows, statistics,
checksums, files, syncs and commits. The other side runs the same batches of tokens through the same model and keeps
nothing. Model and plan are ready before either begins; sides take turns, in an order that changes every round. The
ratio of CPU times counts the writer's thread in full, as if the model used every core; the clock hides what runs beside
the model. The model has one thread, because threads that wait for each other on a busy machine burn CPU time too.
"""

import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.toy import sized
from strata_sae.pipeline.config.run import ExtractConfig
from strata_sae.pipeline.extractor.plan import planned
from strata_sae.pipeline.extractor.unit_filler import UnitFiller
from strata_sae.pipeline.language_model.capture import Capture
from strata_sae.pipeline.language_model.inputs import batches, groups, packed_spans
from strata_sae.pipeline.language_model.loading import load
from strata_sae.stores.files.filesystem import FileSystem, remove_tree
from strata_sae.stores.files.places import LocalPlace
from strata_sae.stores.format.plan import COMMITS, STAGING, Plan
from strata_sae.stores.reading.array import StoredArray, shard_records

SITES = ["blocks.8.hook_resid_post", "blocks.14.hook_resid_post"]
N_TOKENS = sized(2**12, 2**10)
N_ROUNDS = sized(3, 1)
TARGET = 1.10


def config(path: Path, dtype: str) -> ExtractConfig:
    return ExtractConfig.model_validate(
        {
            "name": "benchmark",
            "model": {"path": "demo", "dtype": dtype, "batch_tokens": 4096},
            "corpus": {"sources": [{"kind": "python_docs"}], "n_tokens": N_TOKENS, "context_length": 256},
            "store": {"path": str(path), "sites": SITES, "encoding": dtype, "shard_bytes": 2**22},
            "training": {"n_steps": 1, "warmup_steps": 0},
            "variants": {"a": {"sae": {"architecture": "relu", "d_sae": 1}, "objective": {"reconstruction": {}}}},
        }
    )


def forward_batches(path: Path, plan: Plan) -> list[torch.Tensor]:
    """The token batches that filling every unit runs."""
    spec = plan.token_specs["token_id"]
    token_ids = StoredArray(LocalPlace(path, mapped=True), spec, shard_records(plan.version, spec, plan.files))
    found = []
    context, batch_tokens = plan.config["corpus"]["context_length"], plan.config["model"]["batch_tokens"]
    for unit in range(plan.n_units):
        for group in groups(packed_spans(plan.splits, context, plan.unit_rows(unit)), batch_tokens):
            for batch in batches(group, batch_tokens):
                ids_BS = torch.zeros((len(batch), batch[0].length), dtype=torch.int64)
                for row, span in enumerate(batch):
                    ids_BS[row, : span.length] = torch.from_numpy(token_ids.rows(*span).astype(np.int64))
                found.append(ids_BS)
    return found


def empty(path: Path, plan: Plan) -> None:
    """Forget every unit."""
    files = FileSystem()
    for unit in range(plan.n_units):
        for name in plan.unit_files(unit):
            files.unlink(path / name)
    for commit in (path / COMMITS).rglob("*.json"):
        files.unlink(commit)
    remove_tree(files, path / STAGING)


def fill(path: Path, plan: Plan, capture: Capture) -> None:
    filler = UnitFiller(FileSystem(), path, plan, capture, lambda n_rows: None)
    for unit in range(plan.n_units):
        filler.fill(unit)
    filler.close()


def forward(found: list[torch.Tensor], capture: Capture) -> None:
    for ids_BS in found:
        capture.forward(ids_BS)


def timed(job: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the clock and of CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(folder: Path, dtype: str) -> None:
    settings = config(folder / dtype, dtype)
    path = settings.store_path()
    with contextlib.redirect_stdout(io.StringIO()):
        plan = planned(settings, show_progress=False)
    capture = load(settings.model, SITES)
    found = forward_batches(path, plan)
    sides = {"ours": lambda: fill(path, plan, capture), "alone": lambda: forward(found, capture)}
    forward(found, capture)
    ratios = []
    for number in range(N_ROUNDS):
        times = {}
        for name in sorted(sides, reverse=bool(number % 2)):
            times[name] = timed(sides[name])
        empty(path, plan)
        ratios.append([ours / alone for ours, alone in zip(times["ours"], times["alone"], strict=True)])
        speeds = [plan.n_rows / times[name][0] for name in ("ours", "alone")]
        what = f"{dtype}, round {number + 1}: {plan.n_units} units of {plan.rows_per_unit} rows"
        print(f"{what:45s} {speeds[0]:10.0f} {speeds[1]:10.0f} {ratios[-1][0]:7.3f} {ratios[-1][1]:7.3f}", flush=True)
    middle = [statistics.median(both) for both in zip(*ratios, strict=True)]
    print(f"{dtype + ', median':45s} {'':21} {middle[0]:7.3f} {middle[1]:7.3f} {TARGET:8.2f}", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{torch.get_num_threads()} torch thread; ratio: our time over that of the forward passes")
    heads = ("rows a second", "filling", "forward", "ratio", "by CPU", "at most")
    print("{:45s} {:>10} {:>10} {:>7} {:>7} {:>8}".format(*heads))
    with tempfile.TemporaryDirectory(prefix="strata-extract-") as folder:
        for dtype in ("bfloat16", "float32"):
            compare(Path(folder), dtype)


if __name__ == "__main__":
    main()
