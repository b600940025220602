"""How far the batches are from a perfect shuffle, and whether the plan's prediction says so.

    python benchmarks/mixing.py

Stores whose rows hold signals that are constant within a document, the hardest case for a window. Measured: the squared
distance of a batch's mean from the corpus' mean, over all batches of an epoch and several seeds, divided by what a
perfect shuffle of the very same rows gives (exact, not sampled). Predicted: what `plan` and the report print, from the
lengths of documents alone; for real rows, of whose variance only a part is constant within a document, a bound. The
demo's documents come from data/demo where it exists. Exit code 1 if prediction and measurement differ by over 10 %, or
if on the demo's documents the variance is above 1.2 or a count 5 % off at the demo's or the default window.
"""

import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.toy import met, sized
from strata_sae.pipeline.config.training import TrainingSettings
from strata_sae.stores import ActivationStore, Batches, Filters
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.format.vocabulary import Token
from strata_sae.stores.serving.mixing import batch_mixing
from strata_sae.stores.writing.finishing import finish_store
from strata_sae.stores.writing.planning import create_store
from strata_sae.stores.writing.units import UnitWriter

SITE = "blocks.0.hook_resid_post"
N_SIGNALS = 32
ROWS_PER_BLOCK = 2048
ALL_ROWS = Filters(drop_bos=False, drop_special=False)
WINDOW_ROWS = int(TrainingSettings.model_fields["window_rows"].default)
BATCH = int(TrainingSettings.model_fields["batch_size"].default)
DEMO_WINDOW, DEMO_BATCH = 2**17, 512
N_ROWS, DEMO_SEEDS = sized((2**20, 12), (2**16, 2))
SEEDS = sized({2**14: 4, 2**16: 8, 2**18: 32, 2**20: 4}, {2**14: 2})
"""Seeds for each window: more where an epoch has few windows to average over."""
# Lengths (tokens) at 21 evenly spaced quantiles of the demo's 76 training documents, for where there is no data/demo.
DEMO_LENGTHS = [50, 77, 96, 115, 146, 174, 186, 227, 261, 303, 365, 409, 486, 666, 1136, 1498, 2000, 2209, 3212, 6981]
DEMO_LENGTHS.append(15123)


class Found(NamedTuple):
    """A window of a store, measured."""

    predicted: float
    measured: float
    standard_error: float
    """Of `measured`, between seeds."""
    documents: tuple[float, float]
    """In a batch, over a perfect shuffle's: the first batch (mean of the seeds), and all."""
    positions: tuple[float, float]


def signal_store(
    path: Path, lengths: np.ndarray, rows_per_block: int = ROWS_PER_BLOCK, n_signals: int = N_SIGNALS
) -> ActivationStore:
    """A store of documents of these lengths. Each column is a signal drawn once for each document, N(0, 1)."""
    n_rows = int(lengths.sum())
    document_N = np.repeat(np.arange(len(lengths)), lengths)
    position_N = np.arange(n_rows) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    signals = np.random.default_rng(0).standard_normal((len(lengths), n_signals), np.float32)
    tokens = {
        "token_id": np.zeros(n_rows, np.int32),
        "document": document_N,
        "position": position_N.astype(np.int32),
        "flags": np.zeros(n_rows, np.uint8),
    }
    plan = create_store(
        path,
        iter([tokens]),
        {0: Token(b"a", special=False)},
        n_rows=n_rows,
        n_documents=len(lengths),
        splits={"train": (0, n_rows), "heldout": (n_rows, n_rows)},
        sites={SITE: n_signals},
        encoding="float32",
        compressor="none",
        rows_per_chunk=rows_per_block,
        rows_per_unit=rows_per_block * 64,
        config={},
        provenance={},
    )
    files = FileSystem()
    for unit in range(plan.n_units):
        start, stop = plan.unit_rows(unit)
        writer = UnitWriter(files, path, plan, unit, tokens["flags"][start:stop])
        for first in range(start, stop, rows_per_block):
            writer.append(SITE, signals[document_N[first : min(first + rows_per_block, stop)]])
        writer.commit()
    finish_store(files, path, plan)
    return ActivationStore.open(path)


def measure(
    store: ActivationStore,
    window_rows: int,
    batch_size: int,
    n_seeds: int,
    site: str = SITE,
    filters: Filters = ALL_ROWS,
) -> Found:
    """Serve an epoch for each seed."""
    mixing = batch_mixing(store, site, "train", filters, batch_size)
    assert mixing is not None
    perfect, mean_M = perfect_variance(store, site, filters, batch_size)
    ratios, documents, positions = [], [], []
    for seed in range(n_seeds):
        options = {"seed": seed, "batch_size": batch_size, "window_rows": window_rows, "filters": filters}
        with Batches(store, site, **options) as batches:
            squares = []
            for step in range(batches.n_rows // batch_size):
                rows, number_B = batches.batch(step)
                squares.append(float(np.square(as_float(rows).mean(0, dtype=np.float64) - mean_M).sum()))
                seen = mixing.measure(number_B)
                documents.append((step, seen["documents_ratio"]))
                positions.append((step, seen["positions_ratio"]))
            blocks = batches.blocks_per_window
        ratios.append(statistics.fmean(squares) / perfect)
    return Found(
        predicted=mixing.predicted_variance_ratio(blocks),
        measured=statistics.fmean(ratios),
        standard_error=statistics.stdev(ratios) / len(ratios) ** 0.5,
        documents=first_and_all(documents),
        positions=first_and_all(positions),
    )


def perfect_variance(store: ActivationStore, site: str, filters: Filters, batch_size: int) -> tuple[float, np.ndarray]:
    """Expected squared distance of the mean of rows drawn without replacement from the mean of all; that mean [M]."""
    n_rows, total, square = 0, np.zeros(store.plan.sites[site]), 0.0
    for rows, _ in store.in_order(site, "train", filters, 4096):
        rows_BM = as_float(rows).astype(np.float64)
        n_rows, total, square = n_rows + len(rows_BM), total + rows_BM.sum(0), square + float(np.square(rows_BM).sum())
    mean_M = total / n_rows
    variance = square / n_rows - float(np.square(mean_M).sum())
    return variance / batch_size * (n_rows - batch_size) / (n_rows - 1), mean_M


def as_float(rows: np.ndarray) -> np.ndarray:
    return (rows.astype(np.uint32) << 16).view(np.float32) if rows.dtype == np.uint16 else rows


def first_and_all(values: list[tuple[int, float]]) -> tuple[float, float]:
    return statistics.fmean(v for step, v in values if step == 0), statistics.fmean(v for _, v in values)


def report(what: str, found: Found, bound: bool = False) -> bool:
    """One line. Returns: whether prediction and measurement agree; a bound need not."""
    off = found.measured / found.predicted - 1
    print(
        f"{what:50s} {found.predicted:9.2f} {found.measured:9.2f} {found.standard_error:7.2f} "
        f"{'bound' if bound else f'{off:+.1%}':>7} "
        f"{found.documents[0]:8.3f} {found.documents[1]:7.3f} {found.positions[0]:8.3f} {found.positions[1]:7.3f}",
        flush=True,
    )
    return bound or abs(off) <= 0.1


def over_windows(folder: Path, n_rows: int) -> bool:
    """Several lengths of documents, several windows."""
    draw = np.random.default_rng(1).lognormal(6.0, 1.2, n_rows // 100).astype(np.int64) + 1
    mixed = draw[: np.searchsorted(np.cumsum(draw), n_rows)]
    cases = {f"documents of {size}": np.full(n_rows // size, size) for size in (128, 512, 2048)}
    cases[f"lognormal, mean {mixed.mean():.0f}, longest {mixed.max()}"] = mixed
    good = True
    for number, (name, lengths) in enumerate(cases.items()):
        store = signal_store(folder / str(number), lengths)
        for window, n_seeds in SEEDS.items():
            what = f"{name}, window 2^{window.bit_length() - 1}"
            good &= report(what, measure(store, window, BATCH, n_seeds))
    return good


def demo_lengths(store: ActivationStore | None) -> np.ndarray:
    """Lengths of the demo's training documents, in their order."""
    if store is None:
        quantiles = np.interp(np.linspace(0, 1, 76), np.linspace(0, 1, len(DEMO_LENGTHS)), DEMO_LENGTHS)
        return np.random.default_rng(0).permutation(quantiles.astype(np.int64))
    document_N = store.token_map("document", *store.plan.splits["train"])
    begins = np.flatnonzero(np.concatenate([[True], np.diff(document_N) != 0]))
    return np.diff(np.append(begins, len(document_N)))


def on_demo(folder: Path, n_seeds: int) -> bool:
    """The demo's documents at its own window, and at small ones for contrast."""
    path = Path(__file__).resolve().parent.parent / "data" / "demo"
    real = ActivationStore.open(path) if path.exists() else None
    lengths = demo_lengths(real)
    store = signal_store(folder / "demo", lengths, real.plan.rows_per_chunk if real else ROWS_PER_BLOCK)
    good = True
    for window, batch in ((DEMO_WINDOW, DEMO_BATCH), (WINDOW_ROWS, BATCH)):
        found = measure(store, window, batch, n_seeds)
        good &= report(f"demo's documents, window {window}, batch {batch}", found)
        good &= found.measured <= 1.2 and all(abs(r - 1) <= 0.05 for r in (*found.documents, *found.positions))
    report(f"demo's documents, window {2**14}, batch {DEMO_BATCH}", measure(store, 2**14, DEMO_BATCH, n_seeds))
    if real is not None:
        filters = Filters(drop_bos=True, max_norm_multiple=3.0)
        for site in real.plan.sites:
            for window in (DEMO_WINDOW, 2**14):
                found = measure(real, window, DEMO_BATCH, n_seeds, site, filters)
                report(f"its rows at {site.split('.hook')[0]}, window {window}", found, bound=True)
    return good


def main() -> int:
    print(f"variance of a batch mean / a perfect shuffle's; {ROWS_PER_BLOCK}-row blocks, batches of {BATCH}")
    heads = ("", "predicted", "measured", "+-", "off", "docs:1st", "all", "pos:1st", "all")
    print("{:50s} {:>9} {:>9} {:>7} {:>7} {:>8} {:>7} {:>8} {:>7}".format(*heads))
    with tempfile.TemporaryDirectory(prefix="strata-mixing-") as folder:
        good = over_windows(Path(folder), N_ROWS)
        good &= on_demo(Path(folder), DEMO_SEEDS)
    return int(not met(good))


if __name__ == "__main__":
    sys.exit(main())
