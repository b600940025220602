"""One column for each row: as SciPy assigns them, equal sums included, and no other choice costs less."""

from itertools import permutations

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from strata_sae.pipeline.kernels.assignment import cheapest_pairs


def costs(shape: tuple[int, int], *, ties: bool) -> torch.Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (2 * drawn).round() if ties else drawn


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (5, 3), (40, 40), (17, 90), (90, 17), (0, 4)])
def test_rows_and_columns_are_scipys(shape: tuple[int, int], ties: bool) -> None:
    rows, columns = cheapest_pairs(costs(shape, ties=ties))
    expected = linear_sum_assignment(costs(shape, ties=ties).numpy())
    assert rows.tolist() == expected[0].tolist()
    assert columns.tolist() == expected[1].tolist()


def test_nothing_costs_less() -> None:
    cost = costs((5, 6), ties=False)
    found = cost[cheapest_pairs(cost)].sum()
    every = [cost[range(5), list(chosen)].sum() for chosen in permutations(range(6), 5)]
    assert found == pytest.approx(min(every))
    assert cost.min(dim=1).values.sum() < found - 1e-3, "control: the cheapest of each row share columns"


def test_costs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        cheapest_pairs(torch.tensor([[0.0, float("nan")]]))
