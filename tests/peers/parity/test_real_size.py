"""In float32, at a real size: the rows of our matrices stay theirs, where no near tie decides who is on.

Two orders of summation may pick another latent where the k-th and the next pre-activation differ by rounding. All
latents of such a row then get another gradient, which Adam's first steps turn into a whole learning rate. Such rows are
left out; where one cut goes through the whole batch, rows are left out until it lies in a gap.
"""

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.trainer.centres import geometric_median
from strata_sae.pipeline.trainer.trainee import Trainee
from support.dictionary_learning_settings import TRAINERS
from support.dictionary_learning_side import DictionaryLearning
from support.lockstep import Weights, our_trainee, planted_rows, rows_within

pytestmark = pytest.mark.peers

D_MODEL, D_SAE, K, BATCH, STEPS = 576, 8192, 32, 2048, 20
TOLERANCE = 1e-6
NEAR_TIE, SPARE_ROWS = 2e-6, 128
"""Rows closer to a tie than this are left out of a batch, of which so many more are drawn."""
GAP = 4e-7
"""Width of the gap a whole batch's cut has to lie in: several times what rounding does to a pre-activation."""
SHARE = 0.9999


def matrices_after(name: str, rate: float, steps: int = STEPS) -> tuple[Weights, Weights, Tensor]:
    """Ours, at that rate, and theirs, at 3e-4, after some updates; and the latents (bool) that only one side picked."""
    same = TRAINERS[name]
    sizes = {"steps": 1000, "activation_dim": D_MODEL, "dict_size": D_SAE, "lr": 3e-4}
    theirs = DictionaryLearning(same.trainer, dtype=torch.float32, **sizes, **{**same.theirs, "k": K})
    batches = planted_rows(steps, BATCH + SPARE_ROWS, D_MODEL, dtype=torch.float32)
    start = theirs.weights()
    start["b_dec"] = geometric_median(batches[0])
    theirs.trainer.ae.b_dec.data.copy_(start["b_dec"])
    variant = {"sae": {**same.sae, "k": K, "d_sae": D_SAE}, "objective": same.objective}
    ours = our_trainee(start, n_steps=1000, variant=variant, learning_rate=rate)
    exchanged_E = torch.zeros(D_SAE, dtype=torch.bool)
    for step, more_BM in enumerate(batches, start=1):  # their step 0 would move b_dec to another batch's median
        x_BM = (with_a_clear_cut if name == "batch_topk" else without_near_ties)(theirs, more_BM)
        exchanged_E |= exchanged(ours, theirs, x_BM)
        assert ours.update(x_BM) is not None
        theirs.update(step, x_BM)
    fired_E, fired_there_E = ours.dead_clock.rows_since_active == 0, theirs.trainer.num_tokens_since_fired == 0
    assert torch.equal(fired_E[~exchanged_E], fired_there_E[~exchanged_E])
    return ours.sae.parameters(), theirs.weights(), exchanged_E


@torch.no_grad()
def without_near_ties(theirs: DictionaryLearning, x_BM: Tensor) -> Tensor:
    """The first BATCH rows whose k-th largest pre-activation is clear of the next."""
    ae = theirs.trainer.ae
    largest_BK = ae.encoder(x_BM - ae.b_dec).topk(K + 1, dim=1).values
    clear = x_BM[largest_BK[:, K - 1] - largest_BK[:, K] > NEAR_TIE]
    assert len(clear) >= BATCH, f"only {len(clear)} rows are clear of ties"
    return clear[:BATCH]


@torch.no_grad()
def with_a_clear_cut(theirs: DictionaryLearning, x_BM: Tensor) -> Tensor:
    """BATCH rows in a row whose K * BATCH-th largest pre-activation is clear of the next."""
    ae = theirs.trainer.ae
    pre_BE = ae.encoder(x_BM - ae.b_dec)
    for first in range(SPARE_ROWS + 1):
        some_BE = pre_BE[first : first + BATCH]
        guess = some_BE[::64].flatten().topk(2 * K * BATCH // 64).values.min()
        largest_P = some_BE[some_BE > guess].sort(descending=True).values
        if largest_P[K * BATCH - 1] - largest_P[K * BATCH] > GAP:
            return x_BM[first : first + BATCH]
    raise AssertionError("no cut lies in a gap")


@torch.no_grad()
def exchanged(ours: Trainee, theirs: DictionaryLearning, x_BM: Tensor) -> Tensor:
    """Latents that one side picks in a row and the other does not: near ties, which two orders of summation decide."""
    here_BE = ours.sae.encode(x_BM, workspace=ours.workspace).codes.to_dense() > 0
    ae = theirs.trainer.ae
    return (here_BE != (ae.encode(x_BM, use_threshold=False) > 0)).any(0)


@pytest.mark.parametrize("name", ["topk", "batch_topk"])
def test_rows_stay_equal(name: str) -> None:
    ours, theirs, exchanged_E = matrices_after(name, 3e-4)
    assert float(exchanged_E.double().mean()) < 0.02
    share = share_within(ours, theirs, ~exchanged_E)
    everywhere = share_within(ours, theirs, exchanged_E | True)
    print(f"{name}: {int(exchanged_E.sum())} exchanged; of the other rows {share:.4%} within, of all {everywhere:.4%}")
    assert share >= SHARE


def test_another_learning_rate_is_seen() -> None:
    ours, theirs, exchanged_E = matrices_after("topk", 3.03e-4, steps=2)
    assert share_within(ours, theirs, ~exchanged_E) < SHARE


def share_within(ours: Weights, theirs: Weights, latents_E: Tensor) -> float:
    """The share of rows of both matrices, of these latents, within the tolerance."""
    parts = [{name: side[name][latents_E] for name in ("W_enc", "W_dec")} for side in (ours, theirs)]
    return rows_within(*parts, ("W_enc", "W_dec"), TOLERANCE)
