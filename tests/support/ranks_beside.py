"""What each process of torchrun does in tests: every case of side_by_side, each beside one process that holds all.

torchrun --nproc-per-node N ranks_beside.py RESULTS: the first rank writes what all found, as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from strata_sae.pipeline.sharding import cut
from strata_sae.pipeline.sharding.ranks import Ranks
from strata_sae.pipeline.sharding.torchrun import ranks_here
from support.side_by_side import VARIANTS, coarse_cut, train_beside


def found_by(ranks: Ranks, name: str) -> dict[str, Any]:
    """What all ranks found of a case."""
    before = ranks.sent.bytes_of_rank(ranks.n), ranks.sent.rows_again
    side = train_beside(name, ranks, monitored=False)
    sent = ranks.sent.bytes_of_rank(ranks.n) - before[0]
    numbers = torch.tensor([side.differing, side.selected, side.apart, side.losses], dtype=torch.float64)
    of_ranks = ranks.gather(numbers)
    b_dec = ranks.gather(side.b_dec)
    return {
        "differing": int(of_ranks[:, 0].sum()),
        "selected": int(of_ranks[:, 1].sum()),
        "apart": float(of_ranks[:, 2].max()),
        "losses": float(of_ranks[:, 3].max()),
        "b_dec_is_one": bool((b_dec == b_dec[0]).all()),
        "sent_bytes": sent,
        "rows_again": ranks.sent.rows_again - before[1],
    }


def ties(ranks: Ranks) -> dict[str, list[int]]:
    """Entries that differ where many values are equal, and how many there are: full offers, short ones, no rule."""
    offered, counts = cut.offered, cut._counts
    found = {"offers": coarse_cut(ranks)}
    for more in (1, 2):
        cut.offered = lambda k, n, more=more: min(k, -(-k // n) + more)
        found[f"offers of k / n + {more}"] = coarse_cut(ranks)
    cut.offered, cut._counts = offered, without_rule
    found["without the rule"] = coarse_cut(ranks)
    cut._counts = counts
    return {name: [ranks.count(number) for number in numbers] for name, numbers in found.items()}


def without_rule(offers_RBK: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every value at the cut is kept."""
    cut_B = offers_RBK.transpose(0, 1).flatten(1).topk(k, dim=1).values[:, -1]
    return (offers_RBK >= cut_B[:, None]).sum(2), cut_B


if __name__ == "__main__":
    torch.set_num_threads(1)
    with ranks_here(torch.device("cpu")) as here:
        results: dict[str, Any] = {name: found_by(here, name) for name in VARIANTS}
        results["ties"] = ties(here)
    if here.rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(results), encoding="utf-8")
