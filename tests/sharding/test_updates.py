"""Updates of an SAE that ranks hold together, here played by threads, are those of one process."""

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import row_sum
from strata_sae.pipeline.saes.base import SAE, Workspace
from support.side_by_side import VARIANTS, train_beside
from support.thread_ranks import on_ranks


@pytest.mark.parametrize("name", VARIANTS)
def test_updates_are_those_of_one_process(name: str) -> None:
    sides = on_ranks(3, lambda ranks: train_beside(name, ranks))
    assert sum(side.differing for side in sides) == 0
    assert sum(side.selected for side in sides) > 1000
    assert max(side.apart for side in sides) < 1e-5
    assert sides[0].dead > 0 or "aux_k" not in VARIANTS[name]["objective"]
    assert max(side.losses for side in sides) < 1e-4
    for side in sides:
        assert torch.equal(side.b_dec, sides[0].b_dec)
        assert side.threshold[1] == pytest.approx(side.threshold[0], rel=1e-5)


def test_a_gradient_of_b_dec_that_no_rank_sums_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def alone(sae: SAE, gradients: dict[str, Tensor]) -> Tensor:
        return row_sum(gradients["b_enc"], sae.W_enc)

    monkeypatch.setattr(SAE, "input_gradient", alone)
    sides = on_ranks(3, lambda ranks: train_beside("topk", ranks))
    assert not torch.equal(sides[0].b_dec, sides[1].b_dec)
    assert max(side.apart for side in sides) > 1e-3


def test_a_batch_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workspace, "tile_rows", 16)
    for name in ("topk", "batch_topk"):
        sides = on_ranks(2, lambda ranks, name=name: train_beside(name, ranks))
        assert sum(side.differing for side in sides) == 0
        assert max(side.apart for side in sides) < 1e-5
