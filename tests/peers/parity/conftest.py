"""What parity tests change of either side, so that only the mathematics is compared; each with its reason."""

import pytest
import torch


@pytest.fixture
def no_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of their detours through float32 (`.float()`: AuxK, JumpReLU's masks)."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
