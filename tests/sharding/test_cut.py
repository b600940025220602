"""The cut over ranks is the one of one process, also where many values are equal; and what it costs is known."""

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.kernels import selection
from strata_sae.pipeline.sharding import cut
from strata_sae.pipeline.sharding.ranks import ONE, Ranks, Sent
from support.thread_ranks import on_ranks

B, E, K = 48, 250, 8
COARSE = [0.0, 0.25, 1.0, 10.0]
"""Values are multiples of it: the coarser, the more ties. 0: no ties."""


def values(quantum: float, seed: int = 0) -> Tensor:
    pre_BE = torch.randn(B, E, generator=torch.Generator().manual_seed(seed))
    return (pre_BE / quantum).round() * quantum + 0.0 if quantum else pre_BE


def held(ranks: Ranks, pre_BE: Tensor) -> Tensor:
    some = ranks.latents(pre_BE.shape[1])
    return pre_BE[:, some.start : some.stop].contiguous()


def entries(codes: selection.Codes) -> Tensor:
    """The value of each entry, NaN where there is none: an entry of 0 is one, too."""
    assert isinstance(codes, selection.SparseCodes)
    found_BE = torch.full((codes.batch_size, codes.n_latents), torch.nan)
    found_BE[codes.rows_P.long(), codes.indices_P.long()] = codes.values_P
    return found_BE


def same(one: Tensor, parts: list[Tensor]) -> bool:
    return torch.equal(one.nan_to_num(nan=-9.0), torch.cat(parts, dim=1).nan_to_num(nan=-9.0))


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("quantum", COARSE)
def test_rows(n: int, quantum: float) -> None:
    pre_BE = values(quantum)
    one = entries(selection.row_topk(pre_BE, K, 1.0))
    assert same(one, on_ranks(n, lambda ranks: entries(cut.row_topk(ranks, held(ranks, pre_BE), K, E, 1.0))))


@pytest.mark.parametrize("offer", [2, 3, 7, 8])
def test_short_offers_are_offered_again(offer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut, "offered", lambda k, n: offer)
    pre_BE = values(0.25)
    pre_BE[:5, : E // 4] += 20  # all of these rows' latents are the first rank's
    one = entries(selection.row_topk(pre_BE, K, 1.0))
    rows_again = []

    def work(ranks: Ranks) -> Tensor:
        found = entries(cut.row_topk(ranks, held(ranks, pre_BE), K, E, 1.0))
        rows_again.append(ranks.sent.rows_again)
        assert ranks.sent.gathered_bytes == 4 * (B * offer + (ranks.sent.rows_again * K if offer < K else 0))
        return found

    assert same(one, on_ranks(4, work))
    assert len(set(rows_again)) == 1
    assert (rows_again[0] > 0) == (offer < K)
    assert offer < 7 or rows_again[0] < B


def test_a_rank_without_candidates_takes_part() -> None:
    pre_BE = values(1.0)[:, :10].contiguous()
    one = entries(selection.row_topk(pre_BE, K, 1.0))
    widths = [0, 7, 0, 3]

    def work(ranks: Ranks) -> Tensor:
        first = sum(widths[: ranks.rank])
        return entries(cut.row_topk(ranks, pre_BE[:, first : first + widths[ranks.rank]].contiguous(), K, 10, 1.0))

    assert same(one, on_ranks(4, work))


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("quantum", COARSE)
@pytest.mark.parametrize("guess", [0.0, 1.5, 9.0])
def test_batches(n: int, quantum: float, guess: float) -> None:
    pre_BE = values(quantum, seed=1)
    codes, one_cut = selection.batch_topk(pre_BE, K * B, 1.0)

    def work(ranks: Ranks) -> tuple[Tensor, float]:
        found, own_cut = cut.batch_topk(ranks, held(ranks, pre_BE), K * B, E, 1.0, guess)
        return entries(found), own_cut

    found = on_ranks(n, work)
    assert same(entries(codes), [part for part, _ in found])
    assert {own_cut for _, own_cut in found} == {one_cut}


def test_a_batch_with_few_positive_values_keeps_all() -> None:
    pre_BE = values(0.0) - 3.0
    codes, one_cut = selection.batch_topk(pre_BE, K * B, 1.0)
    found = on_ranks(4, lambda ranks: cut.batch_topk(ranks, held(ranks, pre_BE), K * B, E, 1.0, 0.5))
    assert same(entries(codes), [entries(part) for part, _ in found])
    assert {own_cut for _, own_cut in found} == {one_cut} == {0.0}


@pytest.mark.parametrize("scale", [1e-42, 1e-3, 1.0, 1e30])
def test_the_kth_largest_is_exact(scale: float) -> None:
    pre_BE = values(0.0) * scale
    positive = pre_BE[pre_BE > 0]
    for k in (1, 2, 700, len(positive) - 1):
        found = on_ranks(3, lambda ranks, k=k: cut.kth_largest(ranks, held(ranks, pre_BE).reshape(-1), k))
        assert set(found) == {float(positive.topk(k).values[-1])}
    assert set(on_ranks(3, lambda ranks: cut.kth_largest(ranks, pre_BE[:0].reshape(-1), 1))) == {0.0}


def test_without_the_rule_for_ties_the_entries_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_ties(offers_RBK: Tensor, k: int) -> tuple[Tensor, Tensor]:
        cut_B = offers_RBK.transpose(0, 1).flatten(1).topk(k, dim=1).values[:, -1]
        return (offers_RBK >= cut_B[:, None]).sum(2), cut_B

    monkeypatch.setattr(cut, "_counts", all_ties)
    pre_BE = values(1.0)
    one = entries(selection.row_topk(pre_BE, K, 1.0))
    assert not same(one, on_ranks(4, lambda ranks: entries(cut.row_topk(ranks, held(ranks, pre_BE), K, E, 1.0))))


def test_one_process_exchanges_nothing() -> None:
    pre_BE = values(1.0)
    assert same(entries(selection.row_topk(pre_BE, K, 1.0)), [entries(cut.row_topk(ONE, pre_BE, K, E, 1.0))])
    assert ONE.sent == Sent()


@pytest.mark.parametrize(("k", "n", "offer"), [(16, 4, 10), (64, 64, 7), (128, 512, 5), (1, 2, 1), (8, 2, 8)])
def test_offers(k: int, n: int, offer: int) -> None:
    assert cut.offered(k, n) == offer
