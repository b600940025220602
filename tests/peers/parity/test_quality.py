"""Trained on the demo's store, ours and dictionary_learning's TopK end equally good: within the noise of three seeds.

Each side draws its own initial weights; batches and seeds are shared. Needs data/demo (`make demo`), or STRATA_DATA.
"""

import os
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.loaders import activation_batches
from strata_sae.pipeline.saes import initial_weights
from strata_sae.pipeline.saes.topk import TopK
from strata_sae.pipeline.trainer.centres import geometric_median
from strata_sae.pipeline.trainer.one_pass import weight_generator
from strata_sae.stores import ActivationStore, Filters
from support.dictionary_learning_side import DictionaryLearning
from support.lockstep import our_trainee

pytestmark = [pytest.mark.peers, pytest.mark.long]

STORE = Path(os.environ.get("STRATA_DATA", "data")) / "demo"
SITE, D_MODEL, D_SAE, K, BATCH, STEPS, WARMUP, DECAY_START = (
    "blocks.8.hook_resid_post",
    576,
    2048,
    32,
    512,
    250,
    25,
    200,
)
SEEDS = (0, 1, 2)
FILTERS = Filters(drop_bos=True, drop_special=True)


class Scores(NamedTuple):
    """On held-out rows."""

    fvu: float
    l0: float
    alive: float
    """Share of latents that are on anywhere."""


Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Rows -> codes, reconstructions."""


@pytest.fixture(scope="module")
def rows() -> tuple[dict[int, list[Tensor]], Tensor]:
    """Scaled batches by seed, and scaled held-out rows."""
    if not STORE.exists():
        pytest.skip(f"no store at {STORE}; run: make demo")
    store = ActivationStore.open(STORE)
    usual = {"filters": FILTERS, "window_rows": 2**17}
    batches = {
        seed: list(activation_batches(store, SITE, seed=seed, batch_size=BATCH, n_steps=STEPS, **usual))
        for seed in SEEDS
    }
    scale = float(torch.cat(batches[0]).double().square().sum(1).mean().rsqrt())
    heldout = torch.cat(list(activation_batches(store, SITE, split="heldout", batch_size=2048, n_steps=6, **usual)))
    return {seed: [x_BM * scale for x_BM in some] for seed, some in batches.items()}, heldout * scale


def scores(encode: Encode, heldout_BM: Tensor) -> Scores:
    parts = [encode(x_BM) for x_BM in heldout_BM.split(2048)]
    codes_BE, xhat_BM = (torch.cat(part) for part in zip(*parts, strict=True))
    error = (heldout_BM - xhat_BM).double().square().sum()
    spread = (heldout_BM - heldout_BM.mean(0)).double().square().sum()
    on_BE = codes_BE > 0
    return Scores(float(error / spread), float(on_BE.sum(1).double().mean()), float(on_BE.any(0).double().mean()))


def ours(batches: list[Tensor], seed: int, heldout_BM: Tensor, slowdown: float = 1.0) -> Scores:
    sae = {"architecture": "topk", "k": K, "d_sae": D_SAE}
    start = initial_weights(TopK.Settings(**sae), D_MODEL, weight_generator(seed, D_SAE, D_MODEL))
    start["b_dec"] = geometric_median(batches[0])
    rate = 2e-4 / (D_SAE / 2**14) ** 0.5 / slowdown
    settings = {
        "compat": "dictionary_learning",
        "warmup_steps": WARMUP,
        "decay_start": DECAY_START / STEPS,
        "learning_rate": rate,
    }
    variant = {"sae": sae, "objective": {"reconstruction": {}, "aux_k": {}}}
    trainee = our_trainee(start, n_steps=STEPS, variant=variant, **settings)
    for x_BM in batches:
        assert trainee.update(x_BM) is not None

    def encode(x_BM: Tensor) -> tuple[Tensor, Tensor]:
        codes = trainee.sae.encode_inference(x_BM)
        return codes.to_dense(), trainee.sae.decode(codes)

    return scores(encode, heldout_BM)


def theirs(batches: list[Tensor], seed: int, heldout_BM: Tensor) -> Scores:
    sizes = {"steps": STEPS, "activation_dim": D_MODEL, "dict_size": D_SAE, "k": K, "seed": seed}
    schedule = {"warmup_steps": WARMUP, "decay_start": DECAY_START}
    other = DictionaryLearning("TopKTrainer", dtype=torch.float32, **sizes, **schedule)
    for step, x_BM in enumerate(batches):
        other.update(step, x_BM.clone())

    @torch.no_grad()
    def encode(x_BM: Tensor) -> tuple[Tensor, Tensor]:
        xhat_BM, codes_BE = other.trainer.ae(x_BM, output_features=True)
        return codes_BE, xhat_BM

    return scores(encode, heldout_BM)


def apart(a: list[float], b: list[float]) -> float:
    """The difference of two means, in standard errors."""
    return abs(mean(a) - mean(b)) / max(((stdev(a) ** 2 + stdev(b) ** 2) / len(a)) ** 0.5, 1e-12)


def test_the_ends_are_equally_good(rows: tuple[dict[int, list[Tensor]], Tensor]) -> None:
    batches, heldout_BM = rows
    found = [ours(batches[seed], seed, heldout_BM) for seed in SEEDS]
    expected = [theirs(batches[seed], seed, heldout_BM) for seed in SEEDS]
    slower = [ours(batches[seed], seed, heldout_BM, slowdown=1.5) for seed in SEEDS]
    for name in Scores._fields:
        a, b, c = ([getattr(one, name) for one in side] for side in (found, expected, slower))
        means = " ".join(f"{mean(side):.5f} +- {stdev(side):.5f}" for side in (a, b, c))
        print(f"{name}: ours, theirs, ours slower: {means}")
    for name in ("fvu", "alive"):
        a, b = ([getattr(one, name) for one in side] for side in (found, expected))
        assert apart(a, b) < 4 or abs(mean(a) / mean(b) - 1) < 0.01, name
    assert all(one.l0 == K for one in found + expected)
    assert apart([one.fvu for one in slower], [one.fvu for one in expected]) > 4, "the control: a slower rate is seen"
