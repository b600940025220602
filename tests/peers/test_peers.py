"""Other trainers and readers take our stores unchanged: docs/other_trainers.md, its blocks run as they stand there."""

import re
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stores import ActivationStore, Batches, Filters

pytestmark = pytest.mark.peers

PAGE = Path(__file__).parents[2] / "docs/other_trainers.md"
SITE = "blocks.8.hook_resid_post"
D_MODEL = 32
BATCH = 512
NORM_BATCHES = 102

MakeStore = Callable[..., Path]


def blocks() -> dict[str, str]:
    """The page's code, by the heading over it; "" is the one before the first."""
    parts = re.split(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {
        heading: re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
        for heading, text in zip(["", *parts[1::2]], parts[::2], strict=True)
    }
    assert all(len(code) == 1 for code in found.values())
    return {heading: code for heading, (code,) in found.items()}


def run(*headings: str) -> dict[str, Any]:
    """Run blocks one after another, in one namespace."""
    names: dict[str, Any] = {}
    for heading in headings:
        exec(compile(blocks()[heading], f"{PAGE.name}: {heading}", "exec"), names)
    return names


@pytest.fixture(params=["none", "zstd"])
def store(make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> ActivationStore:
    """A bfloat16 store at data/demo, where the page looks for it."""
    compressor = getattr(request, "param", "none")
    options = {"n_rows": 6000, "sites": {SITE: D_MODEL}, "encoding": "bfloat16", "compressor": compressor}
    path = make_store("data/demo", chunk_bytes=2**13, shard_bytes=2**16, **options)
    monkeypatch.chdir(tmp_path)
    return ActivationStore.open(path)


only_uncompressed = pytest.mark.parametrize("store", ["none"], indirect=True)


def served(store: ActivationStore, first: int, count: int) -> Iterator[Tensor]:
    """Batches as the store's own reader gives them, without the code under test."""
    with Batches(store, SITE, filters=Filters(drop_bos=True), batch_size=BATCH) as batches:
        for step in range(first, first + count):
            rows_BM = (batches.batch(step)[0].astype(np.uint32) << 16).view(np.float32)
            yield torch.from_numpy(rows_BM)


def assert_falls(losses: list[float]) -> None:
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10]), losses


@pytest.fixture
def seen_by_saelens(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, float]]:
    """Every batch and loss of a SAELens trainer."""
    from sae_lens.training.sae_trainer import SAETrainer

    seen = []
    step = SAETrainer.step

    def recorded(self: Any, batch: Tensor) -> Any:
        before = batch.clone()
        output = step(self, batch)
        seen.append((before, output.loss.item()))
        return output

    monkeypatch.setattr(SAETrainer, "step", recorded)
    return seen


@pytest.fixture
def seen_by_dictionary_learning(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, float]]:
    """Every batch (after its division) and loss of a dictionary_learning trainer."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    seen = []
    update = TopKTrainer.update

    def recorded(self: Any, step: int, x: Tensor) -> Any:
        before = x.clone()
        seen.append((before, update(self, step, x)))

    monkeypatch.setattr(TopKTrainer, "update", recorded)
    return seen


@only_uncompressed
def test_saelens_trains_on_our_rows(store: ActivationStore, seen_by_saelens: list[tuple[Tensor, float]]) -> None:
    torch.manual_seed(0)
    names = run("", "SAELens")
    wanted = served(store, 0, 200)
    assert all(
        torch.equal(x_BM, row_BM * names["scale"]) for (x_BM, _), row_BM in zip(seen_by_saelens, wanted, strict=True)
    )
    assert float((seen_by_saelens[0][0] ** 2).sum(1).mean()) == pytest.approx(1, rel=0.05)
    assert_falls([loss for _, loss in seen_by_saelens])


@only_uncompressed
def test_dictionary_learning_trains_on_our_rows(
    store: ActivationStore, seen_by_dictionary_learning: list[tuple[Tensor, float]]
) -> None:
    names = run("", "dictionary_learning")
    assert names["trainer"]["activation_dim"] == D_MODEL
    first = [float((x_BM**2).sum(1).mean()) for x_BM in served(store, 0, NORM_BATCHES - 1)]
    factor = norm_factor_of(seen_by_dictionary_learning[0][0], next(served(store, NORM_BATCHES, 1)))
    assert factor == pytest.approx(np.mean(first) ** 0.5, rel=1e-5)
    wanted = served(store, NORM_BATCHES, 200)
    assert all(
        torch.allclose(x_BM * factor, row_BM, rtol=1e-5, atol=1e-6)
        for (x_BM, _), row_BM in zip(seen_by_dictionary_learning, wanted, strict=True)
    )
    assert_falls([loss for _, loss in seen_by_dictionary_learning])


def norm_factor_of(divided_BM: Tensor, row_BM: Tensor) -> float:
    return float(row_BM.norm() / divided_BM.norm())


def train_twice_over(data: Iterator[Tensor], steps: int) -> None:
    from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
    from dictionary_learning.training import trainSAE

    trainer = {"trainer": TopKTrainer, "dict_class": AutoEncoderTopK, "activation_dim": D_MODEL, "dict_size": 64}
    trainer |= {"k": 4, "steps": steps, "warmup_steps": 1, "layer": 8, "lm_name": "none", "device": "cpu"}
    trainSAE(data, [trainer], steps=steps, normalize_activations=True, device="cpu")


@only_uncompressed
def test_rows_that_were_not_fresh_would_be_spoilt(
    store: ActivationStore, seen_by_dictionary_learning: list[tuple[Tensor, float]]
) -> None:
    """The control: what trainSAE does to batches that their giver keeps and gives again, and does not to ours."""
    from pipeline.iterators import ActivationDataset

    kept = [x_BM.clone() for x_BM in served(store, 0, 3)]
    train_twice_over(cycle(kept), steps=6)
    first, again = (seen_by_dictionary_learning[step][0] for step in (0, 3))
    assert not torch.allclose(first, again)

    seen_by_dictionary_learning.clear()
    dataset = ActivationDataset("data/demo", SITE, filters=Filters(drop_bos=True), batch_size=BATCH, n_steps=3)
    train_twice_over((x_BM for _ in range(40) for x_BM in dataset), steps=6)
    first, again = (seen_by_dictionary_learning[step][0] for step in (0, 3))
    assert torch.equal(first, again)


@only_uncompressed
@pytest.mark.usefixtures("store")
def test_the_data_loader_block_runs() -> None:
    run("", "torch's DataLoader")


def test_plain_zarr_reads_the_same_bits(store: ActivationStore) -> None:
    names = run("zarr, without Strata")
    assert names["rows"].tobytes() == store.float_rows(SITE, 1000, 1010).tobytes()
    assert names["token_ids"].tobytes() == store.token_map("token_id", 1000, 1010).tobytes()


def test_tensorstore_reads_the_same_bits(store: ActivationStore) -> None:
    rows = run("tensorstore, without Strata")["rows"]
    assert str(rows.dtype) == "bfloat16"
    assert rows.tobytes() == store.rows(SITE, 1000, 1010).tobytes()
