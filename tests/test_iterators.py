"""Batches for other trainers: fresh memory, every row once an epoch for any number of workers, a clean early end."""

import pickle
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from strata_sae.pipeline.loaders import ActivationDataset, activation_batches
from strata_sae.stores import ActivationStore, Batches, Filters, StoreError
from support.lying_server import LyingServer, serving

ROOT = Path(__file__).parent.parent
SITE = "blocks.1.hook_resid_post"
BATCH = 36
WINDOW = 128

MakeStore = Callable[..., Path]

# On a machine with fewer cores than the workers, torch says so.
more_workers = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def expected(path: Path, steps: Iterable[int], encoding: str = "float32", **settings: object) -> list[Tensor]:
    """Batches straight from the store, by the plainest conversion there is."""
    found = []
    with Batches(ActivationStore.open(path), SITE, batch_size=BATCH, window_rows=WINDOW, **settings) as batches:  # type: ignore[arg-type]
        for step in steps:
            rows = batches.batch(step)[0].copy()
            rows = (rows.astype(np.uint32) << 16).view(np.float32) if encoding == "bfloat16" else rows
            found.append(torch.from_numpy(rows.astype(np.float32)))
    return found


def same(left: Iterable[Tensor], right: Iterable[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def spoil(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """A trainer that normalises in place: what it was given, before it does."""
    for x_BM in batches:
        seen = x_BM.clone()
        x_BM /= 1000
        yield seen


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("strata-window")]


@pytest.mark.parametrize(
    ("encoding", "compressor"),
    [("float32", "none"), ("float16", "none"), ("bfloat16", "none"), ("bfloat16", "planes"), ("int8", "none")],
)
def test_batches_are_the_stores_in_float32(make_store: MakeStore, encoding: str, compressor: str) -> None:
    path = make_store(encoding=encoding, compressor=compressor)
    store = ActivationStore.open(path)
    ours = list(activation_batches(store, SITE, batch_size=BATCH, window_rows=WINDOW, n_steps=40))
    assert all(x_BM.dtype == torch.float32 and x_BM.shape == (BATCH, 16) for x_BM in ours)
    assert same(ours, expected(path, range(40), encoding))


def test_scale_seed_split_and_filters_are_heeded(make_store: MakeStore) -> None:
    path = make_store()
    settings = {"split": "heldout", "filters": Filters(drop_bos=True), "seed": 3}
    ours = activation_batches(
        ActivationStore.open(path), SITE, batch_size=BATCH, window_rows=WINDOW, n_steps=4, scale=0.5, **settings
    )
    assert same(ours, (x_BM * 0.5 for x_BM in expected(path, range(4), **settings)))


@pytest.mark.parametrize("encoding", ["float32", "bfloat16", "int8"])
def test_a_changed_batch_changes_no_other(make_store: MakeStore, encoding: str) -> None:
    path = make_store(encoding=encoding)
    store = ActivationStore.open(path)
    two_epochs = 2 * store.plan.splits["train"][1] // BATCH  # a window in memory comes around again
    ours = activation_batches(store, SITE, batch_size=BATCH, window_rows=2**20, n_steps=two_epochs)
    with Batches(store, SITE, batch_size=BATCH) as batches:
        untouched = [batches.batch(step)[0].copy() for step in range(two_epochs)]
    wanted = [(r.astype(np.uint32) << 16).view(np.float32) if encoding == "bfloat16" else r for r in untouched]
    assert same(spoil(ours), map(torch.from_numpy, wanted))


def test_memory_that_is_not_fresh_would_be_seen() -> None:
    held = [torch.ones(4, 2), torch.ones(4, 2)]
    assert not same(spoil([*held, *held]), [torch.ones(4, 2)] * 4)


def test_a_resumed_iterator_goes_on_where_it_was(make_store: MakeStore) -> None:
    path = make_store()
    store = ActivationStore.open(path)
    rest = activation_batches(store, SITE, batch_size=BATCH, window_rows=WINDOW, start_step=31, n_steps=60)
    assert same(rest, expected(path, range(31, 60)))


def test_a_wrong_site_is_refused_at_the_call(make_store: MakeStore) -> None:
    with pytest.raises(StoreError, match="no site"):
        activation_batches(ActivationStore.open(make_store()), "blocks.9", batch_size=BATCH)


def test_an_early_break_leaves_no_thread(make_store: MakeStore) -> None:
    store = ActivationStore.open(make_store(n_rows=20_000))
    for x_BM in activation_batches(store, SITE, batch_size=BATCH, window_rows=4096):
        assert len(x_BM) == BATCH
        assert reader_threads()
        break
    assert not reader_threads()


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_a_program_may_end_in_the_midst(make_store: MakeStore, seconds: float) -> None:
    """With the iterator alive in a module, as in the programs of docs/other_trainers.md; and while a window is filled,
    which from then on gets no more threads.
    """
    path = make_store(n_rows=20_000)
    program = f"""
import time
from strata_sae.pipeline.loaders import activation_batches
from strata_sae.stores import ActivationStore
from strata_sae.stores.serving.windows import WindowFiller
fill = WindowFiller.fill
def late(*arguments, **rest):
    time.sleep({seconds})
    fill(*arguments, **rest)
WindowFiller.fill = late
batches = activation_batches(ActivationStore.open({str(path)!r}), {SITE!r}, batch_size={BATCH}, window_rows={WINDOW})
print(len(next(batches)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{BATCH}\n", "")


@more_workers
@pytest.mark.parametrize(
    ("n_workers", "context"), [(0, None), (1, "fork"), (2, "fork"), (3, "fork"), (2, "spawn")], ids=str
)
def test_every_row_comes_once_an_epoch(make_store: MakeStore, n_workers: int, context: str | None) -> None:
    path = make_store(n_rows=37 * 40)
    n_rows = ActivationStore.open(path).plan.splits["train"][1]
    assert n_rows % BATCH == 0
    dataset = ActivationDataset(path, SITE, batch_size=BATCH, window_rows=WINDOW, n_steps=n_rows // BATCH)
    loader = DataLoader(dataset, batch_size=None, num_workers=n_workers, multiprocessing_context=context)
    found = list(loader)
    assert same(found, expected(path, range(n_rows // BATCH)))  # so the order is the same too
    rows = Counter(row.tobytes() for x_BM in found for row in x_BM.numpy())
    stored = Counter(row.tobytes() for row in ActivationStore.open(path).float_rows(SITE, 0, n_rows))
    assert rows == stored


@more_workers
def test_workers_resume_and_may_outnumber_the_steps(make_store: MakeStore) -> None:
    path = make_store()
    dataset = ActivationDataset(path, SITE, batch_size=BATCH, window_rows=WINDOW, start_step=5, n_steps=7)
    loader = DataLoader(dataset, batch_size=None, num_workers=3, multiprocessing_context="fork")
    assert same(loader, expected(path, range(5, 7)))


def test_a_dataset_pickles_while_it_is_read(make_store: MakeStore) -> None:
    path = make_store()
    dataset = ActivationDataset(path, SITE, batch_size=BATCH, window_rows=WINDOW, filters=Filters(drop_bos=True))
    running = iter(dataset)
    first = next(running)
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301
    assert torch.equal(next(iter(copy)), first)


def test_a_dataset_reads_a_url(make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    path = make_store()
    with serving(LyingServer(tmp_path)) as server:
        dataset = ActivationDataset(f"{server.url}/{path.name}", SITE, batch_size=BATCH, window_rows=WINDOW, n_steps=3)
        assert same(dataset, expected(path, range(3)))
