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

from strata_sae.pipeline import loaders as iterators
from strata_sae.stores import ActivationStore, Batches, Filters

pytestmark = pytest.mark.peers

PAGE = Path(__file__).parents[2] / "docs/other_trainers.md"
SITE = "blocks.8.hook_resid_post"
D_MODEL = 32
BATCH = 512
N_STEPS = 200
NORM_BATCHES = 102
"""What trainSAE reads to learn the scale, the last of them in vain."""

MakeStore = Callable[..., Path]
Seen = list[tuple[Tensor, float]]


def run(*headings: str) -> dict[str, Any]:
    """Run the page's blocks under these headings ("": before the first) one after another, in one namespace."""
    parts = re.split(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    texts = dict(zip(["", *parts[1::2]], parts[::2], strict=True))
    names: dict[str, Any] = {}
    for heading in headings:
        (code,) = re.findall(r"^```python\n(.*?)^```$", texts[heading], flags=re.MULTILINE | re.DOTALL)
        exec(compile(code, f"{PAGE.name}: {heading}", "exec"), names)
    return names


@pytest.fixture
def store(make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> ActivationStore:
    """A bfloat16 store at data/demo, where the page looks for it."""
    options = {"n_rows": 6000, "sites": {SITE: D_MODEL}, "encoding": "bfloat16"}
    options["compressor"] = getattr(request, "param", "none")
    path = make_store("data/demo", chunk_bytes=2**13, shard_bytes=2**16, **options)
    monkeypatch.chdir(tmp_path)
    return ActivationStore.open(path)


both_compressors = pytest.mark.parametrize("store", ["none", "zstd"], indirect=True)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Every batch that a peer's SAE was given, as it was before the step, and its loss."""
    from dictionary_learning.trainers.top_k import TopKTrainer
    from sae_lens.training.sae_trainer import SAETrainer

    found: Seen = []
    step, update = SAETrainer.step, TopKTrainer.update

    def recorded_step(self: Any, x_BM: Tensor) -> Any:
        before, output = x_BM.clone(), step(self, x_BM)
        found.append((before, output.loss.item()))
        return output

    def recorded_update(self: Any, number: int, x_BM: Tensor) -> Any:
        before, loss = x_BM.clone(), update(self, number, x_BM)
        found.append((before, loss))
        return loss

    monkeypatch.setattr(SAETrainer, "step", recorded_step)
    monkeypatch.setattr(TopKTrainer, "update", recorded_update)
    return found


def served(store: ActivationStore, first: int, count: int) -> Iterator[Tensor]:
    """Batches as the store's own reader gives them, without the code under test."""
    with Batches(store, SITE, filters=Filters(drop_bos=True), batch_size=BATCH) as batches:
        for step in range(first, first + count):
            rows_BM = (batches.batch(step)[0].astype(np.uint32) << 16).view(np.float32)
            yield torch.from_numpy(rows_BM)


def last_loss(seen: Seen) -> float:
    return float(np.mean([loss for _, loss in seen[-10:]]))


@pytest.mark.parametrize(("trainer", "first"), [("SAELens", 0), ("dictionary_learning", NORM_BATCHES)])
def test_a_trainer_learns_from_our_rows(
    store: ActivationStore, seen: Seen, trainer: str, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = train(trainer)
    squares = [float((x_BM**2).sum(1).mean()) for x_BM in served(store, 0, first - 1)]
    scale = np.mean(squares) ** -0.5 if first else names["scale"]
    wanted = [x_BM * scale for x_BM in served(store, first, N_STEPS)]
    assert is_seen(wanted, seen)
    assert float((seen[0][0] ** 2).sum(1).mean()) == pytest.approx(1, rel=0.05)
    ours = last_loss(seen)

    # The control: rows of the same numbers and lengths, in which the numbers of each are put in another order.
    intact = iterators.activation_batches
    monkeypatch.setattr(iterators, "activation_batches", lambda *args, **kwargs: scrambled(intact(*args, **kwargs)))
    seen.clear()
    train(trainer)
    assert not is_seen(wanted, seen)
    assert ours < 0.9 * last_loss(seen)


def train(trainer: str) -> dict[str, Any]:
    torch.manual_seed(0)
    return run("", trainer)


def is_seen(wanted: list[Tensor], seen: Seen) -> bool:
    return all(torch.allclose(x, y, rtol=1e-5, atol=1e-6) for x, (y, _) in zip(wanted, seen, strict=True))


def scrambled(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    for x_BM in batches:
        yield x_BM.gather(1, torch.rand(x_BM.shape).argsort(1))


def test_rows_that_were_not_fresh_would_be_spoilt(store: ActivationStore, seen: Seen) -> None:
    """What trainSAE does to batches that their giver keeps and gives again, and does not to ours."""

    def first_and_again(data: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
        from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
        from dictionary_learning.training import trainSAE

        trainer = {"trainer": TopKTrainer, "dict_class": AutoEncoderTopK, "activation_dim": D_MODEL, "dict_size": 64}
        trainer |= {"k": 4, "steps": 6, "warmup_steps": 1, "layer": 8, "lm_name": "none", "device": "cpu"}
        seen.clear()
        trainSAE(data, [trainer], steps=6, normalize_activations=True, device="cpu")
        return seen[0][0], seen[3][0]

    assert not torch.allclose(*first_and_again(cycle([x_BM.clone() for x_BM in served(store, 0, 3)])))
    ours = iterators.ActivationDataset("data/demo", SITE, filters=Filters(drop_bos=True), batch_size=BATCH, n_steps=3)
    assert torch.equal(*first_and_again(x_BM for _ in range(40) for x_BM in ours))


@pytest.mark.usefixtures("store")
def test_the_data_loader_block_runs() -> None:
    run("", "torch's DataLoader")


@both_compressors
def test_plain_zarr_reads_the_same_bits(store: ActivationStore) -> None:
    names = run("zarr, without Strata")
    assert names["rows"].tobytes() == store.float_rows(SITE, 1000, 1010).tobytes()
    assert names["token_ids"].tobytes() == store.token_map("token_id", 1000, 1010).tobytes()


@both_compressors
def test_tensorstore_reads_the_same_bits(store: ActivationStore) -> None:
    rows = run("tensorstore, without Strata")["rows"]
    assert str(rows.dtype) == "bfloat16"
    assert rows.tobytes() == store.rows(SITE, 1000, 1010).tobytes()
