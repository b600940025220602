"""The break-even density: interpolated from costs, measured once for a shape, and only taken where it is asked for."""

import logging

import pytest
import torch

from strata_sae.pipeline.kernels import break_even as module
from strata_sae.pipeline.kernels.break_even import DENSITIES, break_even, measured_break_even
from strata_sae.pipeline.kernels.codes import DenseCodes, SparseCodes
from strata_sae.pipeline.kernels.selection import above


@pytest.mark.parametrize("slope", [7.0, 10.0, 25.0])
def test_where_a_cost_that_grows_with_density_meets_a_constant_one(slope):
    costs = [slope * density for density in DENSITIES]
    assert break_even(1.5, costs) == pytest.approx(1.5 / slope)


def test_it_stays_within_what_was_tried():
    assert break_even(1.0, [0.1] * len(DENSITIES)) == DENSITIES[-1]
    assert 0 < break_even(1.0, [100.0] * len(DENSITIES)) < DENSITIES[0]


def test_it_is_measured_once_and_says_what_it_found(monkeypatch, caplog):
    monkeypatch.setattr(module, "LARGEST_SHAPE", (8, 64))
    measured_break_even.cache_clear()
    with caplog.at_level(logging.INFO):
        found = [measured_break_even(64, 128, 8) for _ in range(2)]
    assert found[0] == found[1]
    assert [record.message.startswith(f"break-even density {found[0]:.3f}") for record in caplog.records] == [True]
    measured_break_even.cache_clear()


def test_a_chosen_density_decides_the_layout():
    pre_BE = torch.ones(4, 10)
    pre_BE[:, 3:] = -1.0
    layouts = [type(above(pre_BE, 0.0, density)) for density in (0.29, 0.31)]
    assert layouts == [DenseCodes, SparseCodes]
