"""Does memory grow with what is on disk? Peaks of child processes whose stores differ in size and in nothing else.

    python benchmarks/memory.py

Extracting: how far the peak resident set of filling the same rows in units of 8 and of 64 MiB exceeds what importing
took; the model is an embedding, so that nothing hides the writer. Training: the peak PSS (sampled) of the same run on a
store and on one ten times larger, which it reads once.
"""

import subprocess
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.toy import sized

SITE = "embed"
D_MODEL = 512
N_ROWS = sized(2**16, 2**13)
SHARD_BYTES = sized((2**23, 2**26), (2**21, 2**23))
CHUNK_BYTES = 2**20
FEW_CHUNKS = 4
TRAIN_ROWS = sized((2**15, 10 * 2**15), (2**13, 2**14))
BATCH = 1024
SAMPLE_SECONDS = 0.1


def mebibytes(path: str, key: str) -> float:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def fill(folder: Path, shard_bytes: int) -> float:
    """Fill a store in units of `shard_bytes`. Returns: MiB by which its peak exceeds what was there before."""
    import numpy as np
    import torch

    from strata_sae.pipeline.extractor.unit_filler import UnitFiller
    from strata_sae.pipeline.language_model.capture import Capture
    from strata_sae.pipeline.language_model.sites import Site
    from strata_sae.stores.files.filesystem import FileSystem
    from strata_sae.stores.format.vocabulary import Token
    from strata_sae.stores.writing.planning import create_store, layout

    class Embedding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(128, D_MODEL)

        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> None:
            self.embed(input_ids)

    sizes = layout({SITE: D_MODEL}, "float32", CHUNK_BYTES, shard_bytes)
    row_N = np.arange(N_ROWS)
    tokens = {
        "token_id": (row_N % 128).astype(np.int32),
        "document": row_N // 256,
        "position": (row_N % 256).astype(np.int32),
        "flags": (row_N % 256 == 0).astype(np.uint8),
    }
    plan = create_store(
        folder / "store",
        iter([tokens]),
        {word: Token(b"%d" % word, special=False) for word in range(128)},
        n_rows=N_ROWS,
        n_documents=N_ROWS // 256,
        splits={"train": (0, N_ROWS), "heldout": (N_ROWS, N_ROWS)},
        sites={SITE: D_MODEL},
        encoding="float32",
        compressor="none",
        rows_per_chunk=sizes.rows_per_chunk,
        rows_per_unit=sizes.rows_per_unit,
        config={
            "corpus": {"mode": "packed", "context_length": 256},
            "model": {"batch_tokens": 256, "dtype": "float32"},
        },
        provenance={},
    )
    capture = Capture(Embedding().eval(), [Site(SITE, "embed", "output")])
    capture.forward(torch.zeros((1, 256), dtype=torch.int64))
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the peak
    before = mebibytes("/proc/self/status", "VmRSS")
    filler = UnitFiller(FileSystem(), folder / "store", plan, capture, lambda n_rows: None)
    for unit in range(plan.n_units):
        filler.fill(unit)
    filler.close()
    return mebibytes("/proc/self/status", "VmHWM") - before


def train(folder: Path) -> float:
    """Train on the store in `folder`. Returns: peak PSS in MiB."""
    from strata_sae.pipeline.config import RunConfig
    from strata_sae.pipeline.trainer.train import train

    variant = {"sae": {"architecture": "topk", "d_sae": 512, "k": 16}, "objective": {"reconstruction": {}}}
    config = {
        "name": "benchmark",
        "model": {"path": "none"},
        "corpus": {"sources": [{"kind": "python_docs"}], "n_tokens": TRAIN_ROWS[0]},
        "store": {"path": str(folder / "store"), "sites": ["blocks.8.hook_resid_post"]},
        "training": {
            "n_steps": TRAIN_ROWS[1] // BATCH,
            "batch_size": BATCH,
            "warmup_steps": 0,
            "window_rows": 2**14,
            "calibration_rows": 4096,
            "log_every_steps": 100,
            "checkpoint_every_steps": 100,
            "device": "cpu",
        },
        "variants": {"a": variant, "b": variant},
    }
    peak = 0.0
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(SAMPLE_SECONDS):
            peak = max(peak, mebibytes("/proc/self/smaps_rollup", "Pss:"))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        train(RunConfig.model_validate(config), show_progress=False)
    finally:  # a thread that goes on would keep this process, and whoever waits for it, for ever
        done.set()
        sampler.join()
    return peak


def child(job: str, folder: Path, size: int) -> float:
    """What a job says it took in a process of its own, in MiB."""
    # One thread: on a busy machine several threads wait for each other most of the time.
    command = ["env", "OMP_NUM_THREADS=1", sys.executable, str(Path(__file__).resolve()), job, str(folder), str(size)]
    return float(subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE).stdout)


def row(what: str, small: float, large: float, target: str) -> None:
    print(f"{what:58s} {small:8.1f} {large:8.1f} {large / small:7.3f} {target:>22}", flush=True)


def main() -> None:
    from read import make_store

    print("{:58s} {:>8} {:>8} {:>7} {:>22}".format("peak MiB", "small", "large", "ratio", "target"))
    peaks = []
    for shard_bytes in SHARD_BYTES:
        with tempfile.TemporaryDirectory(prefix="strata-memory-") as folder:
            peaks.append(child("fill", Path(folder), shard_bytes))
    grown = (peaks[1] - peaks[0]) * 2**20 / CHUNK_BYTES
    sizes = " / ".join(str(n_bytes // 2**20) for n_bytes in SHARD_BYTES)
    row(
        f"extracting, resident beyond the start: units of {sizes} MiB",
        *peaks,
        f"up to {FEW_CHUNKS} chunks: {grown:.1f}",
    )
    peaks = []
    for n_rows in TRAIN_ROWS:
        with tempfile.TemporaryDirectory(prefix="strata-memory-") as folder:
            make_store(Path(folder) / "store", n_rows, 256, "bfloat16")
            peaks.append(child("train", Path(folder), 0))
    row(f"training, PSS: {TRAIN_ROWS[0]} / {TRAIN_ROWS[1]} rows", *peaks, "at most 1.05")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        job, folder, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
        print(fill(folder, size) if job == "fill" else train(folder))
