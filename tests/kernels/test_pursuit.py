"""Gradient pursuit against its plain form over full matrices, and on dictionaries whose codes are known."""

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.kernels import pursuit
from strata_sae.pipeline.kernels.pursuit import gradient_pursuit


def plain(target_BM: Tensor, W_EM: Tensor, n: int) -> Tensor:
    """The algorithm as dictionary_learning's grad_pursuit.py writes it, for decoder rows of length 1."""
    values_BE = torch.zeros(len(target_BM), len(W_EM), dtype=W_EM.dtype)
    taken_BE = torch.zeros_like(values_BE)
    for _ in range(n):
        missing_BM = target_BM - values_BE @ W_EM
        products_BE = missing_BM @ W_EM.T
        taken_BE[torch.arange(len(target_BM)), products_BE.argmax(dim=1)] = 1
        gradient_BE = taken_BE * products_BE
        direction_BM = gradient_BE @ W_EM
        length_B = (direction_BM * missing_BM).sum(1) / direction_BM.square().sum(1)
        values_BE = (values_BE + length_B[:, None] * gradient_BE).clamp(min=0)
    return values_BE


def unit_rows(n: int, width: int, seed: int) -> Tensor:
    rows = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def test_codes_are_those_of_the_plain_form_after_every_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pursuit, "TILE_BYTES", 7 * 4 * 9 * 12)  # several tiles, the last one short
    W_EM = unit_rows(40, 12, 0)
    target_BM = torch.randn(30, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for n, codes in gradient_pursuit(target_BM, W_EM, {1, 4, 9}):
        torch.testing.assert_close(codes.to_dense(), plain(target_BM, W_EM, n))
        assert not torch.allclose(codes.to_dense(), plain(target_BM, W_EM, n + 1))  # a control: another number of steps
        assert int((codes.to_dense() > 0).sum(1).max()) <= n
        assert bool((codes.values > 0).all())


def test_norms_of_decoder_rows_change_the_values_and_not_the_reconstruction() -> None:
    W_EM, factor_E = unit_rows(40, 12, 0), torch.linspace(0.1, 5.0, 40, dtype=torch.float64)
    target_BM = torch.randn(9, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    [(_, unit)] = gradient_pursuit(target_BM, W_EM, [6])
    [(_, scaled)] = gradient_pursuit(target_BM, W_EM * factor_E[:, None], [6])
    torch.testing.assert_close(scaled.to_dense() * factor_E, unit.to_dense())
    torch.testing.assert_close(scaled.to_dense() @ (W_EM * factor_E[:, None]), unit.to_dense() @ W_EM)


def test_codes_of_an_orthogonal_dictionary_are_found_whole_and_then_stay() -> None:
    W_EM = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    W_EM[5] = 0.0  # a dead decoder row
    truth_BE = torch.zeros(4, 8, dtype=torch.float64)
    truth_BE[0, [1, 6]], truth_BE[1, [2]], truth_BE[2, [0, 3, 7]] = 2.0, 1.0, torch.tensor([3.0, 1.0, 2.0]).double()
    for _, codes in gradient_pursuit(truth_BE @ W_EM, W_EM, [3, 6]):
        torch.testing.assert_close(codes.to_dense(), truth_BE, atol=1e-12, rtol=0)


def test_bad_steps_are_refused() -> None:
    for steps in ([], [0, 2]):
        with pytest.raises(ValueError, match="at least one step"):
            next(gradient_pursuit(torch.zeros(1, 2), torch.eye(2), steps))
