"""Gradient pursuit against dictionary_learning's."""

import pytest
import torch

from strata_sae.pipeline.kernels.pursuit import gradient_pursuit

pytestmark = pytest.mark.peers


def test_codes_are_those_of_dictionary_learning() -> None:
    from dictionary_learning.grad_pursuit import grad_pursuit

    generator = torch.Generator().manual_seed(0)
    W_EM = torch.nn.functional.normalize(torch.randn(200, 32, generator=generator), dim=1)
    target_BM = torch.randn(64, 32, generator=generator)
    for n, codes in gradient_pursuit(target_BM, W_EM, [1, 5, 20]):
        theirs_BE = grad_pursuit(target_BM, W_EM.T, target_l0=n)
        torch.testing.assert_close(codes.to_dense(), theirs_BE, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(codes.to_dense(), grad_pursuit(target_BM, W_EM.T, target_l0=n + 1), atol=1e-4)
