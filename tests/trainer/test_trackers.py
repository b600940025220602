import math

import pytest
import torch

from strata_sae.pipeline.kernels.codes import DenseCodes
from strata_sae.pipeline.trainer.trainee import DeadClock, RunningThreshold

CPU = torch.device("cpu")


def test_dead_clock_counts_rows_since_a_value_above_zero():
    clock = DeadClock(3, dead_after_rows=4, device=CPU)
    codes = DenseCodes(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert clock.update(codes).tolist() == [False, False, False]
    assert clock.update(codes).tolist() == [False, True, True]
    woken = DenseCodes(torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]))
    assert clock.update(woken).tolist() == [False, False, True]
    assert clock.rows_since_active.tolist() == [2, 0, 6]
    assert clock.rows_since_active.dtype == torch.int64


@pytest.mark.parametrize("sparse", [False, True])
def test_threshold_rules(sparse):
    dense = DenseCodes(torch.tensor([[3.0, 1.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 0.0]]))
    codes = dense.to_sparse() if sparse else dense
    per_row, per_batch = RunningThreshold(0.9, True, CPU), RunningThreshold(0.9, False, CPU)
    per_row.update(codes)
    per_batch.update(codes)
    assert per_row.value() == pytest.approx(3.0)  # rows with none are skipped
    assert per_batch.value() == pytest.approx(1.0)


def test_threshold_is_bias_corrected_and_skips_empty_batches():
    threshold = RunningThreshold(0.9, False, CPU)
    assert threshold.value() == 0.0
    numerator = weight = 0.0
    for value in [2.0, math.inf, 4.0, 1.0]:
        codes = DenseCodes(torch.tensor([[0.0 if math.isinf(value) else value, 0.0]]))
        threshold.update(codes)
        if math.isfinite(value):
            numerator, weight = 0.9 * numerator + 0.1 * value, 0.9 * weight + 0.1
            assert threshold.value() == pytest.approx(numerator / weight, rel=1e-12)
    assert threshold.mean.dtype == torch.float64


def smallest(value: float) -> DenseCodes:
    return DenseCodes(torch.tensor([[value, 0.0]]))


def mean_after(start: str, beta: float, values: list[float]) -> RunningThreshold:
    threshold = RunningThreshold(beta, False, CPU, start=start)
    for value in values:
        threshold.update(smallest(value))
    return threshold


def test_threshold_starts_as_in_the_libraries():
    values = [2.0, 0.0, 4.0, 1.0]  # a batch without a positive activation plays no part
    expected = 2.0
    for value in (4.0, 1.0):
        expected = 0.999 * expected + 0.001 * value
    assert mean_after("first_value", 0.999, values).value() == pytest.approx(expected, rel=1e-12)
    from_zero = 0.0
    for value in (2.0, 4.0, 1.0):
        from_zero += 0.01 * (value - from_zero)
    assert mean_after("from_zero", 0.99, values).value() == pytest.approx(from_zero, rel=1e-12)


def test_control_from_zero_is_too_low_early_and_the_correction_is_not():
    values = [3.0] * 20
    assert mean_after("from_zero", 0.99, values).value() == pytest.approx(3.0 * (1 - 0.99**20))
    assert mean_after("corrected", 0.99, values).value() == pytest.approx(3.0)
    assert mean_after("first_value", 0.99, values).value() == pytest.approx(3.0)


def test_a_threshold_is_unset_before_the_first_positive_activation():
    assert not mean_after("first_value", 0.9, []).is_set()
    assert not mean_after("corrected", 0.9, [0.0]).is_set()
    assert mean_after("corrected", 0.9, [0.0, 1.0]).is_set()
