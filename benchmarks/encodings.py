"""What each encoding costs: bytes per value, rates of encoding and decoding on one core, noise, and the SAEs trained.

    python benchmarks/encodings.py [STORE] [--train]

STORE: a finished bfloat16 store (default: data/demo, which `make demo` leaves; at toy size one of a few tokens is
extracted, and --train is on). With --train, the TopK SAEs of the demo are trained from the bfloat16 rows and from int8
ones, three seeds each, on the same rows in the same order.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.toy import TOY, sized
from strata_sae.stores.deriving.slice import slice_store
from strata_sae.stores.format.encodings import to_float32
from strata_sae.stores.front.store import ActivationStore

REPOSITORY = Path(__file__).resolve().parents[1]

FORMATS = [("bfloat16", "none"), ("bfloat16", "zstd"), ("bfloat16", "planes"), ("int8", "none"), ("int8", "zstd")]
ROUNDS = sized(5, 1)
SEEDS = sized((0, 1, 2), (0,))
TRAINING = sized({}, {"n_steps": 3, "warmup_steps": 0, "batch_size": 128, "calibration_rows": 256})
"""What is trained otherwise than in the demo."""
METRICS = ("r2_pooled", "l0", "alive_latents")


def decode_seconds(store: ActivationStore, site: str) -> float:
    """CPU seconds of decoding every chunk of a site once, the least of several rounds; the files are in memory."""
    values = store.values(site)
    n_chunks = -(-store.plan.n_rows // store.plan.rows_per_chunk)
    seconds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for chunk in range(n_chunks):
            values.decoded(*values.coded(chunk))
        seconds.append(time.process_time() - began)
    return min(seconds)


def noise(exact: ActivationStore, coded: ActivationStore, site: str) -> tuple[float, float]:
    """Sum of squared errors over the variance: of all rows, and of those within three median norms."""
    n_rows = exact.plan.n_rows
    rows_NM = to_float32(exact.rows(site, 0, n_rows))
    errors_N = np.square(coded.float_rows(site, 0, n_rows) - rows_NM).sum(axis=1, dtype=np.float64)
    norms_N = exact.norms(site, 0, n_rows)
    ratios = []
    for chosen_N in (np.ones(n_rows, bool), norms_N <= 3 * np.median(norms_N)):
        some_NM = rows_NM[chosen_N]
        ratios.append(errors_N[chosen_N].sum() / float(np.square(some_NM - some_NM.mean(axis=0)).sum(dtype=np.float64)))
    return ratios[0], ratios[1]


def table(source: ActivationStore, folder: Path) -> dict[str, Path]:
    """Slice the store into every format and print what that costs."""
    made = {}
    print(
        f"{'format':<18}{'site':<28}{'bytes/value':>12}{'/ bf16':>8}{'encode':>8}{'decode':>8}"
        f"{'noise/var':>11}{'ordinary':>10}"
    )
    for encoding, compressor in FORMATS:
        name = f"{encoding}-{compressor}"
        made[name] = folder / name
        began = time.process_time()
        coded = slice_store(source, made[name], encoding=encoding, compressor=compressor)
        raw_bytes = sum(source.plan.n_rows * width * 2 for width in source.plan.sites.values())
        encode = raw_bytes / (time.process_time() - began) / 1e9
        for site, width in source.plan.sites.items():
            n_values = coded.plan.n_rows * width
            bytes_ = coded.summary()["sites"][site]["bytes_per_token"] / width
            decode = n_values * 2 / decode_seconds(coded, site) / 1e9
            everything, ordinary = noise(source, coded, site)
            print(
                f"{name:<18}{site:<28}{bytes_:>12.3f}{bytes_ / (2 + 4 / width):>8.3f}{encode:>8.2f}{decode:>8.2f}"
                f"{everything:>11.1e}{ordinary:>10.1e}",
                flush=True,
            )
    print("rates: GB of bfloat16 per CPU second; encoding includes reading, checksums, hashes and statistics")
    return made


def train_from(name: str, path: Path, folder: Path) -> dict[str, dict[str, list[float]]]:
    """Metrics of the TopK SAEs trained from a store: site -> metric -> one number per seed."""
    from strata_sae.pipeline.config import load
    from strata_sae.pipeline.evaluation.evaluate import evaluate
    from strata_sae.pipeline.trainer.train import train

    config = load(REPOSITORY / "configs/demo.yaml", [])
    topk = config.variants["topk"]
    config = config.model_copy(
        update={
            "name": name,
            "store": config.store.model_copy(update={"path": str(path)}),
            "training": config.training.model_copy(update=TRAINING),
            "variants": {f"topk_{seed}": topk.model_copy(update={"seed": seed}) for seed in SEEDS},
        }
    )
    os.chdir(folder)
    train(config, show_progress=False)
    evaluate(config, show_progress=False)
    found: dict[str, dict[str, list[float]]] = {}
    for site in config.store.sites:
        scores = [
            json.loads((folder / f"runs/{name}/variants/topk_{seed}@{site}/metrics.json").read_text()) for seed in SEEDS
        ]
        found[site] = {metric: [score["metrics"][metric]["value"] for score in scores] for metric in METRICS}
    return found


def extracted(folder: Path) -> Path:
    """A store of a few tokens of the demo's text."""
    from extract import config

    from strata_sae.pipeline.extractor.extract import extract

    settings = config(folder / "extracted", "bfloat16")
    extract(settings, show_progress=False)
    return settings.store_path()


def compare(made: dict[str, Path], folder: Path) -> None:
    """Train from bfloat16 and from int8, and print the difference beside the spread of the seeds."""
    results = {name: train_from(name, made[name], folder) for name in ("bfloat16-none", "int8-none")}
    for site, metrics in results["bfloat16-none"].items():
        for metric, exact in metrics.items():
            coded = results["int8-none"][site][metric]
            print(
                f"{site} {metric}: bfloat16 {np.mean(exact):.5g}, int8 {np.mean(coded):.5g}, mean difference "
                f"{np.mean(coded) - np.mean(exact):+.2g}, largest {np.abs(np.subtract(coded, exact)).max():.2g}, "
                f"spread of seeds {np.ptp(exact):.2g}",
                flush=True,
            )


def main() -> None:
    paths = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    folder = Path(tempfile.mkdtemp(prefix="strata-encodings-"))
    try:
        path = extracted(folder) if TOY else Path(paths[0] if paths else REPOSITORY / "data/demo").resolve()
        made = table(ActivationStore.open(path), folder)
        if "--train" in sys.argv or TOY:
            compare(made, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
