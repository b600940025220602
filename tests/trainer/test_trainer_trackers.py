import math

import pytest
import torch

from pipeline.kernels.codes import DenseCodes
from pipeline.trainer.trackers import DeadClock, RunningThreshold

CPU = torch.device("cpu")


def test_dead_clock_counts_rows_since_a_value_above_zero():
    clock = DeadClock(3, dead_after_tokens=4, device=CPU)
    codes = DenseCodes(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert clock.update(codes).tolist() == [False, False, False]
    assert clock.update(codes).tolist() == [False, True, True]
    woken = DenseCodes(torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]))
    assert clock.update(woken).tolist() == [False, False, True]
    assert clock.tokens_since_fired.tolist() == [2, 0, 6]
    assert clock.tokens_since_fired.dtype == torch.int64


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
