"""Orthogonality beyond few active latents: other architectures, and pairs that are never active together."""

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.objective import all_pairs
from strata_sae.pipeline.saes.base import SAE
from strata_sae.pipeline.schedules import Schedule
from support.gradient_parity import (
    PROGRESS,
    assert_equal_to_reference,
    largest_difference,
    make_rows,
    make_sae,
    reference,
    settings_of,
    step,
)

FORMS = {
    "static": {"weight": 0.5},
    "adaptive": {"threshold": Schedule(start=0.3, end=0.0)},
    "exponent 0": {"weight": Schedule(shape="power", start=0.5, end=0.0, exponent=0.0)},
    "from half": {"weight": 0.5, "from_progress": 0.5},
    "from a quarter": {"weight": 0.5, "from_progress": 0.25},
    "squared, jaccard": {"penalty": "squared", "normalisation": "jaccard"},
    "conditional, mean": {"normalisation": "conditional", "reduction": "mean"},
    "lift": {"normalisation": "lift", "threshold": 1.1},
    "proportional": {"shape": "proportional", "threshold": 0.1},
    "sigmoid": {"shape": "sigmoid"},
    "sigmoid, squared": {"shape": "sigmoid", "penalty": "squared"},
    "sigmoid_co_active": {"shape": "sigmoid_co_active"},
    "activations": {"on": "activations"},
    "activations, squared, lift": {
        "on": "activations", "penalty": "squared", "normalisation": "lift", "threshold": 1.1,
    },
    "activations, sigmoid": {"on": "activations", "shape": "sigmoid"},
}  # fmt: skip


@pytest.fixture(params=["sparse", "dense"])
def path(request, monkeypatch):
    """Both layouts of codes; tiles of 7 latents, which do not divide d_sae."""
    density = {"sparse": 2.0, "dense": -1.0}[request.param]
    monkeypatch.setattr("strata_sae.pipeline.saes.base.SAE.break_even_density", density)
    monkeypatch.setattr(all_pairs, "TILE_LATENTS", 7)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("architecture", ["relu", "gated", "jump_relu"])
def test_every_form_equals_autograd_where_l0_is_learnt(architecture, form, path):
    settings = settings_of(["reconstruction", "orthogonality"], orthogonality=FORMS[form])
    assert_equal_to_reference(make_sae(architecture), settings)


def test_every_option_of_these_architectures(path):
    for architecture, options in (
        ("relu", {"tied": True, "decoder": "free"}),
        ("gated", {"decoder": "free", "pre_bias": False}),
        ("jump_relu", {"ste_to_input": True, "bandwidth": 2.0}),
    ):
        for form in ("static", "sigmoid", "activations"):
            settings = settings_of(["reconstruction", "orthogonality"], orthogonality=FORMS[form])
            assert_equal_to_reference(make_sae(architecture, **options), settings)


def test_control_from_progress_and_the_architecture_matter():
    sae, x_BM = make_sae("relu"), make_rows()
    plain = step(settings_of(["reconstruction"]), sae, x_BM).gradients
    for form, acts in (("static", True), ("from half", False), ("from a quarter", True)):
        assert (FORMS[form].get("from_progress", 0.0) <= PROGRESS) == acts
        settings = settings_of(["reconstruction", "orthogonality"], orthogonality=FORMS[form])
        assert (largest_difference(step(settings, sae, x_BM).gradients, plain) > 0.01) == acts


# -- pairs that are never active together ------------------------------------------------------------------------------


def sparse_sae(architecture: str = "topk") -> SAE:
    """With k 2 of 48 latents on 24 rows, most pairs are never active together, and some latents never at all."""
    sae = make_sae(architecture, k=2)
    together_EE = overlap(sae)
    assert float((together_EE == 0).double().mean()) > 0.8
    assert int((together_EE.diagonal() == 0).sum()) > 0
    return sae


def overlap(sae: SAE) -> Tensor:
    active_BE = (sae.encode(make_rows(), fraction_done=PROGRESS).codes.to_dense() != 0).double()
    return active_BE.T @ active_BE


@pytest.mark.parametrize("penalty", ["absolute", "squared"])
@pytest.mark.parametrize("normalisation", ["min", "batch", "jaccard", "conditional", "lift"])
@pytest.mark.parametrize("on", ["decoder", "activations"])
def test_the_sigmoid_counts_every_pair(on, normalisation, penalty, path):
    form = {"shape": "sigmoid", "normalisation": normalisation, "penalty": penalty, "on": on}
    for architecture in ("topk", "batch_topk"):
        settings = settings_of(["reconstruction", "orthogonality"], orthogonality=form)
        assert_equal_to_reference(sparse_sae(architecture), settings)


@pytest.mark.parametrize("penalty", ["absolute", "squared"])
@pytest.mark.parametrize("threshold", [0.1, 0.3])
def test_the_share_left_out_is_that_of_the_dense_sum(penalty, threshold, path):
    sae, x_BM = sparse_sae(), make_rows()
    form = {"shape": "sigmoid_co_active", "penalty": penalty, "threshold": threshold, "weight": 1.0}
    result = step(settings_of(["reconstruction", "orthogonality"], orthogonality=form), sae, x_BM, monitored=True)
    both_EE = overlap(sae)
    c_EE = torch.sigmoid((both_EE / torch.minimum(both_EE.diagonal()[:, None], both_EE.diagonal()) - threshold) / 0.05)
    c_EE = torch.where(both_EE > 0, c_EE, torch.sigmoid(torch.tensor(-threshold / 0.05, dtype=torch.float64)))
    similarity_EE = (sae.W_dec @ sae.W_dec.T).abs().fill_diagonal_(0.0)
    summed_EE = c_EE * (similarity_EE if penalty == "absolute" else similarity_EE.square())
    expected = float(summed_EE[both_EE == 0].sum() / summed_EE.sum())
    assert float(result.monitors["orthogonality/share_left_out"]) == pytest.approx(expected, rel=1e-9)
    assert 0.02 < expected < 0.95
    assert float(result.losses["orthogonality"]) == pytest.approx(float(summed_EE[both_EE > 0].sum()), rel=1e-12)


def test_control_the_reference_tells_the_two_sigmoids_apart():
    sae, x_BM = sparse_sae(), make_rows()
    both, fewer = (
        settings_of(["reconstruction", "orthogonality"], orthogonality={"shape": shape})
        for shape in ("sigmoid", "sigmoid_co_active")
    )
    for one, other in ((both, fewer), (fewer, both)):
        _, gradients = reference(sae, other, x_BM, None)
        assert largest_difference(step(one, sae, x_BM).gradients, gradients) > 1e-3


def test_nothing_is_left_out_of_products_of_activations():
    form = {"shape": "sigmoid_co_active", "on": "activations"}
    settings = settings_of(["reconstruction", "orthogonality"], orthogonality=form)
    result = step(settings, sparse_sae(), make_rows(), monitored=True)
    assert "orthogonality/share_left_out" not in result.monitors
    full = settings_of(["reconstruction", "orthogonality"], orthogonality={**form, "shape": "sigmoid"})
    assert torch.equal(result.loss, step(full, sparse_sae(), make_rows()).loss)


def test_a_batch_without_an_active_latent_has_no_pairs(path):
    for architecture in ("relu", "topk"):
        sae = make_sae(architecture)
        sae.b_enc.fill_(-1e3)
        for form in ("static", "lift", "activations", "sigmoid"):
            settings = settings_of(
                ["reconstruction", "orthogonality"], orthogonality={**FORMS[form], "watch": [[0, 1]]}
            )
            result = step(settings, sae, make_rows(), monitored=True)
            assert torch.isfinite(result.loss)
            assert float(result.monitors["orthogonality/competing_pairs"]) == 0.0
            assert all(torch.isfinite(gradient).all() for gradient in result.gradients.values())


@pytest.mark.parametrize("form", ["static", "sigmoid", "sigmoid, squared", "lift", "activations"])
def test_pairs_found_in_tiles_are_those_found_by_rows(form, monkeypatch):
    """The same SAE with codes of either layout: counts, sums and cosines of competing pairs are equal."""
    settings = settings_of(
        ["reconstruction", "orthogonality"], orthogonality={**FORMS[form], "watch": [[3, 9], [0, 7]]}
    )
    found = []
    for density in (2.0, -1.0):
        monkeypatch.setattr("strata_sae.pipeline.saes.base.SAE.break_even_density", density)
        found.append(step(settings, make_sae("topk"), make_rows(), monitored=True).monitors)
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        assert float(found[0][name]) == pytest.approx(float(found[1][name]), rel=1e-12, nan_ok=True), name


@pytest.mark.parametrize("penalty", ["absolute", "squared"])
def test_in_float32_the_pairs_apart_lose_no_digits(penalty):
    """The closed form takes the diagonal off a sum over all pairs."""
    W_dec = torch.randn(400, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    single = torch.zeros(400, 60)
    found = all_pairs.of_decoder_alike(W_dec.float(), 0.119, penalty, 0.7, single)
    p = W_dec.clone().requires_grad_()
    similarity_EE = (p @ p.T) * (1 - torch.eye(400, dtype=torch.float64))
    loss = 0.119 * (similarity_EE.abs() if penalty == "absolute" else similarity_EE.square()).sum()
    (gradient,) = torch.autograd.grad(0.7 * loss, p)
    assert float(found) == pytest.approx(float(loss.detach()), rel=1e-6)
    assert float((single.double() - gradient).norm() / gradient.norm()) < 1e-6
