"""Of equal values at the cut some are taken at random: the exact count, by seed and step, whatever the tiles."""

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.kernels import tiles
from strata_sae.pipeline.kernels.selection import batch_topk, random_numbers
from strata_sae.pipeline.kernels.tiles import Tiles, batch_topk_of_tiles
from strata_sae.pipeline.saes.base import Workspace
from support.small_saes import make_sae, rows

WORD = 2**64


def split_mix(place: int, draw: int) -> int:
    """SplitMix64's output `place` of the stream that begins at `draw`, in Python's integers, as a signed number."""
    z = (draw + (place + 1) * 0x9E3779B97F4A7C15) % WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    z ^= z >> 31
    return z - WORD if z >= WORD // 2 else z


def by_loops(pre_BE: Tensor, n_entries: int, draw: int) -> Tensor:
    """Every value of the batch sorted by size, equal ones by their random number."""
    flat = pre_BE.flatten().tolist()
    order = sorted((i for i, value in enumerate(flat) if value > 0), key=lambda i: (-flat[i], split_mix(i, draw)))
    kept = set(order[:n_entries])
    return torch.tensor([value if i in kept else 0.0 for i, value in enumerate(flat)]).view_as(pre_BE)


def tied(n_rows: int = 24, n_latents: int = 20) -> Tensor:
    """Integers 0 to 4: about a hundred of each."""
    return torch.randint(0, 5, (n_rows, n_latents), generator=torch.Generator().manual_seed(5)).float()


@pytest.mark.parametrize("draw", [0, 1, 2**63, WORD - 1, 12345678901234567890])
def test_the_numbers_are_split_mix_64(draw):
    assert random_numbers(torch.tensor([0, 1, 7, 2**40]), draw).tolist() == [
        split_mix(place, draw) for place in (0, 1, 7, 2**40)
    ]
    assert split_mix(0, 0) == 0xE220A8397B1DCDAF - WORD, "the published first number of seed 0"


@pytest.mark.parametrize("guess", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("n_entries", [1, 50, 130, 300])
def test_the_count_is_exact_and_the_choice_is_that_of_the_loops(n_entries, guess):
    pre_BE = tied()
    codes, _ = batch_topk(pre_BE, n_entries, 2.0, guess, draw=9)
    assert codes.n_active() == n_entries
    assert torch.equal(codes.to_dense(), by_loops(pre_BE, n_entries, 9))
    first, other = (batch_topk(pre_BE, n_entries, 2.0, guess, draw=draw)[0].to_dense() for draw in (None, 10))
    assert not torch.equal(codes.to_dense(), first), "control: the first in row order are others"
    assert not torch.equal(codes.to_dense(), other), "control: another step takes others"
    assert torch.equal(codes.to_dense().flatten().sort().values, first.flatten().sort().values), "of the same values"


def test_tiles_change_nothing(monkeypatch):
    monkeypatch.setattr(tiles, "GUESS_MARGIN", 0.5)
    pre_BE = tied()
    W_EM = torch.eye(20)
    found = batch_topk_of_tiles(Tiles(pre_BE, W_EM, torch.zeros(20), torch.empty(7, 20)), 130, 2.0, draw=9)
    assert found is not None
    assert torch.equal(found.to_dense(), by_loops(pre_BE, 130, 9))


def test_each_of_equal_values_is_taken_equally_often():
    """400 draws of 30 out of 120: each entry 100 times on average, with a standard deviation of 8.7."""
    times = sum((batch_topk(torch.ones(6, 20), 30, 2.0, draw=draw)[0].to_dense() > 0).long() for draw in range(400))
    assert int(times.sum()) == 400 * 30
    assert 65 < int(times.min()) <= int(times.max()) < 135


def encoded(seed: int = 0, fraction_done: float = 0.25, **options) -> Tensor:
    sae = make_sae("batch_topk", **options)
    sae.seed = seed
    sae.W_enc[:] = sae.W_enc[:1]  # every latent of a row has the same value
    sae.b_enc[:] = 0.5
    whole, tiled = (sae.encode(rows(1100), fraction_done=fraction_done, workspace=w) for w in (None, Workspace()))
    assert torch.equal(whole.codes.to_dense() > 0, tiled.codes.to_dense() > 0)
    assert whole.codes.n_active() == 4 * 1100
    return whole.codes.to_dense() > 0


def test_an_sae_takes_others_at_every_seed_and_step_and_the_same_again():
    random = encoded(tie_break="random")
    assert torch.equal(random, encoded(tie_break="random"))
    assert not torch.equal(random, encoded(seed=1, tie_break="random"))
    assert not torch.equal(random, encoded(fraction_done=0.26, tie_break="random"))
    assert torch.equal(encoded(), encoded(seed=1, fraction_done=0.9)), "control: the first stay whatever the step"
    assert not torch.equal(random, encoded())
