"""What `strata codes` takes: bytes a pair, time beside that of encoding alone, and memory at two numbers of rows.

    python benchmarks/codes.py

Sizes and times are of the demo's SAEs (`make demo` first; two of the twelve, which this makes codes of in a folder that
goes away), processor time of one thread, encoding alone and the whole command in turn in one process. Memory is that of
a process for each number of rows, over made-up stores with 64 codes a row. Exit code 1 over 5.5
bytes a pair, 1.5 times the time of encoding (labels apart, which have a line of their own), or 1.5 GiB.
"""

import contextlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import numpy as np
import torch
import yaml

from benchmarks.toy import TOY, met, sized, skipped
from strata_sae.pipeline.codes import build, sharing
from strata_sae.pipeline.codes.coding import Coding
from strata_sae.pipeline.config import load
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.stores import CodesStore, Token, write_store
from support import evaluation_folder
from support.evaluation_folder import SITE, config_data, random_weights, write_trained

SAES = sized(("topk@blocks.8.hook_resid_post", "relu@blocks.14.hook_resid_post"), (f"sae@{SITE}",))
ROWS, D_MODEL, D_SAE, K = sized(((2**20, 2**21), 32, 2048, 64), ((3000, 5000), 16, 256, 8))
BYTES_A_PAIR, TIMES, GIB = 5.5, 1.5, 1.5


def made_up(folder: Path, n_rows: int) -> Path:
    """A store of random rows and a run of one TopK SAE. Returns: the run's folder."""
    evaluation_folder.D_MODEL = D_MODEL
    rng = np.random.default_rng(0)
    tokens = {
        "token_id": rng.integers(1, 1000, n_rows).astype(np.int32),
        "document": (np.arange(n_rows) // 500).astype(np.int64),
        "position": (np.arange(n_rows) % 500).astype(np.int32),
        "flags": np.zeros(n_rows, np.uint8),
    }
    vocabulary = {number: Token(f" w{number}".encode(), special=False) for number in range(1000)}
    rows = rng.standard_normal((n_rows, D_MODEL), np.float32)
    store = write_store(folder / "store", {SITE: rows}, tokens=tokens, vocabulary=vocabulary)
    sae = {"architecture": "topk", "d_sae": D_SAE, "k": K}
    write_trained(folder / "runs/run", "sae", store.id, sae, random_weights(D_SAE, 1))
    data = config_data(folder / "store", {}, {"drop_bos": True})
    (folder / "runs/run/config.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    return folder / "runs/run"


def encoding_seconds(run: Path, name: str) -> float:
    """Processor time of encoding every row, with its codes dropped."""
    config = TrainConfig.of(load(run / "config.yaml"), "config.yaml")
    world = build._world(RunFolder(run), config)
    encoder = Coding(world, world.run.variant(name)).encoder()
    began = time.process_time()
    for _ in encoder.tiles(0, world.stores.stores[0].plan.n_rows):
        pass
    return time.process_time() - began


def building_seconds(run: Path, name: str) -> tuple[float, float]:
    """Processor time of the command without its start, and of the labels in it."""
    labels = [0.0]
    real = sharing.kept_labels

    def timed(*arguments: object) -> object:
        began = time.process_time()
        made = real(*arguments)  # type: ignore[arg-type]
        labels[0] += time.process_time() - began
        return made

    shutil.rmtree(run / "variants" / name / "codes", ignore_errors=True)
    for file in (run / "variants" / name).glob("token_*"):
        file.unlink()
    sharing.kept_labels = timed  # type: ignore[assignment]
    began = time.process_time()
    build.build_codes(run, only=name)
    seconds = time.process_time() - began
    sharing.kept_labels = real
    return seconds - labels[0], labels[0]


def compared(run: Path, name: str) -> bool:
    """A line of an SAE: whether its targets are met."""
    encoding, building, labels = [], [], []
    for round_ in range(sized(3, 1) + 1):
        alone = encoding_seconds(run, name)
        whole, of_labels = building_seconds(run, name)
        if round_ or TOY:  # in the first one loops are compiled, and files come into memory
            encoding.append(alone)
            building.append(whole)
            labels.append(of_labels)
    codes = CodesStore.open(run / "variants" / name / "codes")
    files = [path.stat().st_size for path in codes.path.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    n_bytes, ratio = sum(files) / codes.n_pairs, min(building) / min(encoding)
    print(
        f"{name:<34}{codes.n_pairs:>12,}{n_bytes:>9.2f}{min(encoding):>12.2f}{min(building):>9.2f}{ratio:>7.2f}"
        f"{min(labels):>9.2f}"
    )
    return met(n_bytes <= BYTES_A_PAIR) and met(ratio <= TIMES)


def peak_gib(run: Path) -> float:
    """Of a process that makes the codes of a run."""
    done = subprocess.run([sys.executable, __file__, "--peak", run], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def main() -> int:
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--peak"]:
        build.build_codes(Path(sys.argv[2]))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        return 0
    if not TOY and not Path("runs/demo/config.yaml").is_file():
        return skipped("no runs/demo here; make it with `make demo`")
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"{'':<34}{'pairs':>12}{'B a pair':>9}{'encoding, s':>12}{'all, s':>9}{'times':>7}{'labels, s':>9}")
        run = made_up(folder / "toy", ROWS[0]) if TOY else folder / "demo"
        if not TOY:
            shutil.copytree("runs/demo", run, ignore=shutil.ignore_patterns("codes", "token_*"))
        for name in SAES:
            good &= compared(run, name)
        for n_rows in ROWS:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder / "rows")
            peak = peak_gib(made_up(folder / "rows", n_rows))
            print(f"{n_rows:>10,} rows, {K} of {D_SAE:,} latents each: at most {peak:.2f} GiB")
            good &= met(peak <= GIB)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
