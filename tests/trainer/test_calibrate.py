import pytest
import torch

from strata_sae.pipeline.trainer.finish import calibrate


class Fixed:
    """Pre-activations are the rows themselves."""

    def pre_activations(self, x_BM: torch.Tensor) -> torch.Tensor:
        return x_BM


@pytest.mark.parametrize("k", [1.0, 3.0, 7.0])
@pytest.mark.parametrize("drift", [0.0, 0.5, -0.5])
def test_exactly_k_per_row_lie_above(k, drift):
    """Also where the first batch misleads: later batches are larger or smaller."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(20, 40, generator=generator) + drift * number for number in range(4)]
    threshold = calibrate(Fixed(), lambda: iter(batches), k)
    assert sum(int((batch > threshold).sum()) for batch in batches) == k * 80


def test_too_high_a_floor_is_widened():
    """The first batch is far above the others, so its values alone cannot tell."""
    generator = torch.Generator().manual_seed(1)
    batches = [
        torch.rand(10, 8, generator=generator) + 100,
        *(torch.rand(10, 8, generator=generator) for _ in range(9)),
    ]
    threshold = calibrate(Fixed(), lambda: iter(batches), 5)
    assert sum(int((batch > threshold).sum()) for batch in batches) == 500


def test_zero_where_too_few_are_positive():
    batches = [torch.tensor([[1.0, -1.0, -2.0]])]
    assert calibrate(Fixed(), lambda: iter(batches), 2) == 0.0
    assert calibrate(Fixed(), lambda: iter(batches), 1) == 0.0
