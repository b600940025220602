"""Two-child TopK against its source's loops, and against the dictionary that made the rows."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from strata_sae.pipeline.objective import TERMS, Objective, check_terms
from strata_sae.pipeline.saes import ARCHITECTURES, initial_weights
from support.small_saes import make_sae, rows

N_PARENTS, K = 20, 4


def source_codes(sae, x_BM: Tensor) -> Tensor:
    """Row by row and parent by parent: the k largest parents, each with the stronger child."""
    codes_BE = torch.zeros(len(x_BM), sae.d_sae, dtype=x_BM.dtype)
    for row_E, x_M in zip(codes_BE, x_BM, strict=True):
        pre_E = [float((x_M - sae.b_dec) @ sae.W_enc[latent] + sae.b_enc[latent]) for latent in range(sae.d_sae)]
        for parent in sorted(range(N_PARENTS), key=lambda parent: -pre_E[parent])[:K]:
            first, second = N_PARENTS + parent, 2 * N_PARENTS + parent
            child = first if pre_E[first] > pre_E[second] else second
            row_E[parent], row_E[child] = pre_E[parent], pre_E[child]
    return codes_BE


def test_signed_codes_equal_the_loops():
    sae, x_BM = make_sae("two_child_topk", signed=True), rows()
    expected_BE = source_codes(sae, x_BM)
    assert (expected_BE < 0).any()
    torch.testing.assert_close(sae.encode(x_BM).codes.to_dense(), expected_BE)


def test_unsigned_codes_are_the_positive_ones_of_parents_that_are_on():
    sae, x_BM = make_sae("two_child_topk"), rows()
    sae.b_enc[:N_PARENTS] -= 2.0  # so that some of the k parents are not active
    expected_BE = source_codes(sae, x_BM).relu()
    parent_active_BE = expected_BE[:, :N_PARENTS] > 0
    assert (parent_active_BE.sum(1) < K).any()
    torch.testing.assert_close(sae.encode(x_BM).codes.to_dense(), expected_BE * parent_active_BE.repeat(1, 3))


PER_CHILD_K = 2


def source_codes_per_child(sae, x_BM: Tensor) -> Tensor:
    """TinyStories form, row by row: all children, 0 where the parent is not active; the largest of each kind."""
    codes_BE = torch.zeros(len(x_BM), sae.d_sae, dtype=x_BM.dtype)
    for row_E, x_M in zip(codes_BE, x_BM, strict=True):
        pre_E = [float((x_M - sae.b_dec) @ sae.W_enc[latent] + sae.b_enc[latent]) for latent in range(sae.d_sae)]
        for parent in sorted(range(N_PARENTS), key=lambda parent: -pre_E[parent])[:K]:
            row_E[parent] = pre_E[parent] if sae.settings.signed else max(pre_E[parent], 0.0)
        for start in (N_PARENTS, 2 * N_PARENTS):
            masked = [pre_E[start + parent] if row_E[parent] != 0 else 0.0 for parent in range(N_PARENTS)]
            for parent in sorted(range(N_PARENTS), key=lambda parent: -masked[parent])[:PER_CHILD_K]:
                row_E[start + parent] = masked[parent]
    return codes_BE


@pytest.mark.parametrize("signed", [True, False])
def test_per_child_k_equals_the_loops_over_all_children(signed):
    sae, x_BM = make_sae("two_child_topk", signed=signed, per_child_k=PER_CHILD_K), rows()
    sae.b_enc[:N_PARENTS] -= 1.5  # some active parents are negative, or none
    expected_BE = source_codes_per_child(sae, x_BM)
    torch.testing.assert_close(sae.encode(x_BM).codes.to_dense(), expected_BE)
    torch.testing.assert_close(sae.encode_inference(x_BM).to_dense(), expected_BE)
    children_BE = expected_BE[:, N_PARENTS:].view(len(x_BM), 2, N_PARENTS) > 0
    assert int(children_BE.sum(2).max()) == PER_CHILD_K
    assert children_BE.all(1).any(), "both children of a parent may be active"
    winners = make_sae("two_child_topk", signed=signed)
    winners.b_enc[:N_PARENTS] -= 1.5
    assert not torch.allclose(winners.encode(x_BM).codes.to_dense(), expected_BE), "control: the other form"


def test_gradients_with_per_child_k_equal_autograd():
    sae, x_BM = make_sae("two_child_topk", signed=True, per_child_k=PER_CHILD_K), rows()
    result = Objective({"reconstruction": TERMS["reconstruction"].Settings()}, sae).forward_backward(x_BM)
    leaves = {name: parameter.clone().requires_grad_() for name, parameter in sae.parameters().items()}
    active_BE = source_codes_per_child(sae, x_BM) != 0
    pre_BE = (x_BM - leaves["b_dec"]) @ leaves["W_enc"].T + leaves["b_enc"]
    xhat_BM = (pre_BE * active_BE) @ leaves["W_dec"] + leaves["b_dec"]
    (x_BM - xhat_BM).square().sum(1).mean().backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(result.gradients[name], leaf.grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_child_k": 5}, r"per_child_k \(5\) must not exceed k \(4\)"),
        ({"per_child_k": 0}, "greater than 0"),
        ({"k": 12, "per_child_k": 9}, r"k \(12\) and per_child_k \(9\) together must not exceed .* \(20\)"),
        ({"k": {"start": 10, "end": 4}, "per_child_k": 5}, r"must not exceed k \(4\)"),
    ],
)
def test_a_per_child_k_that_cannot_be_filled_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        ARCHITECTURES["two_child_topk"].Settings(**{"d_sae": 60, "k": K, **options})


def test_the_cosine_of_parent_and_child_needs_one_child_for_each_parent():
    terms = {
        "reconstruction": TERMS["reconstruction"].Settings(),
        "two_child_cosine": TERMS["two_child_cosine"].Settings(weight=0.1),
    }
    with pytest.raises(ValueError, match=r"needs one active child for each active parent, and sae.per_child_k \(2\)"):
        check_terms(terms, make_sae("two_child_topk", per_child_k=2).settings)
    check_terms(terms, make_sae("two_child_topk").settings)


@pytest.mark.parametrize("perturbation", [0.2, 0.5])
def test_the_dictionary_that_made_the_rows_finds_them_again(perturbation):
    """Rows of k parents, each moved towards one of its two children: every latent and every row come out exact."""
    n, k, n_rows = 4, 2, 64
    generator = torch.Generator().manual_seed(0)
    directions_EM = torch.linalg.qr(torch.randn(3 * n, 3 * n, generator=generator, dtype=torch.float64)).Q
    parents_BK = torch.rand(n_rows, n, generator=generator).topk(k, dim=1).indices
    children_BK = parents_BK + n * torch.randint(1, 3, (n_rows, k), generator=generator)
    truth_BE = torch.zeros(n_rows, 3 * n, dtype=torch.float64).scatter_(1, parents_BK, 1.0)
    truth_BE.scatter_(1, children_BK, perturbation)
    settings = ARCHITECTURES["two_child_topk"].Settings(d_sae=3 * n, k=k, pre_bias=False, decoder="free", signed=True)
    weights = initial_weights(settings, 3 * n, torch.Generator())
    oracle = {name: w.double() for name, w in weights.items()} | {"W_enc": directions_EM, "W_dec": directions_EM}
    sae = ARCHITECTURES["two_child_topk"](settings, 3 * n, oracle)
    x_BM = truth_BE @ directions_EM
    codes = sae.encode(x_BM).codes
    torch.testing.assert_close(codes.to_dense(), truth_BE)
    torch.testing.assert_close(sae.decode(codes), x_BM)
    swapped = ARCHITECTURES["two_child_topk"](settings, 3 * n, {**oracle, "W_enc": directions_EM.roll(n, dims=0)})
    assert not torch.allclose(swapped.encode(x_BM).codes.to_dense(), truth_BE)


def test_the_running_ratio_equals_the_loops_and_survives_a_checkpoint():
    sae = make_sae("two_child_topk", signed=True)
    options = {"reconstruction": {}, "two_child_cosine": {"weight": 0.0}}
    settings = {name: TERMS[name].Settings(**values) for name, values in options.items()}
    objective, resumed = Objective(settings, sae), Objective(settings, sae)
    expected_E = torch.ones(sae.d_sae, dtype=torch.float64)
    for number in range(3):
        x_BM = rows() * (number - 1.5)
        objective.forward_backward(x_BM)
        codes_BE = source_codes(sae, x_BM)
        for child in range(N_PARENTS, 3 * N_PARENTS):
            both = (codes_BE[:, child] != 0) & (codes_BE[:, child % N_PARENTS] != 0)
            if both.any():
                mean = (codes_BE[both, child] / codes_BE[both, child % N_PARENTS]).mean()
                expected_E[child] = 0.99 * expected_E[child] + 0.01 * mean
    ratio_E = objective.state()["two_child_cosine.child_parent_ratio"]
    torch.testing.assert_close(ratio_E, expected_E)
    assert (expected_E != 1).sum() > N_PARENTS
    resumed.load_state(objective.state())
    assert torch.equal(resumed.state()["two_child_cosine.child_parent_ratio"], ratio_E)


def test_a_dictionary_that_is_not_three_of_each_is_refused():
    with pytest.raises(ValidationError, match=r"d_sae \(65\) must be a multiple of 3.*try 63"):
        ARCHITECTURES["two_child_topk"].Settings(d_sae=65, k=K)
