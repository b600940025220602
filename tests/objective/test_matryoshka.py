"""One code, several reconstructions: prefixes, ranks, multiples of k; and the reductions of a squared error."""

import pytest
import torch
from pydantic import ValidationError

from strata_sae.pipeline.objective import TERMS, check_terms
from strata_sae.pipeline.objective.partial_reconstruction import prefix_ends
from strata_sae.pipeline.objective.term import TermSettings
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import SAE
from strata_sae.pipeline.schedules import Schedule
from support.gradient_parity import (
    BATCH,
    D_MODEL,
    D_SAE,
    PROGRESS,
    assert_equal_to_reference,
    largest_difference,
    make_rows,
    make_sae,
    settings_of,
    step,
)

TOPK = ARCHITECTURES["topk"].Settings(d_sae=64, k=4)
ENDS = [6, 12, 24, D_SAE]


@pytest.fixture(params=["sparse", "dense"])
def path(request, monkeypatch):
    """Both sides of the density rule, on the same state."""
    monkeypatch.setattr(
        "strata_sae.pipeline.saes.base.SAE.break_even_density", {"sparse": 2.0, "dense": -1.0}[request.param]
    )
    return request.param


def term(name: str, **options) -> dict[str, TermSettings]:
    return {name: TERMS[name].Settings(**options)}


def plain_error(sae: SAE, n: int) -> float:
    """SSE of the reconstruction by the first n latents."""
    codes_BE = sae.encode(make_rows(), fraction_done=PROGRESS).codes.to_dense()
    return float((codes_BE[:, :n] @ sae.W_dec[:n] + sae.b_dec - make_rows()).square().sum() / BATCH)


# -- prefixes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"levels": "sum"},
        {"compat": "dictionary_learning"},
        {"reduction": "mean"},
        {"reduction": "mean", "levels": "sum", "smallest": 8, "fractions": [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0]},
        {"reduction": "fvu", "fractions": None, "ends": [5, 20, D_SAE]},
        {"reduction": "fvu", "fractions": None, "ends": [D_SAE], "levels": "sum"},
    ],
)
@pytest.mark.parametrize("architecture", ["relu", "gated", "jump_relu", "batch_topk"])
def test_every_convention_equals_autograd(architecture, options, path):
    settings = settings_of(["prefix_reconstruction"], prefix_reconstruction={"weight": 0.7, **options})
    assert_equal_to_reference(make_sae(architecture), settings)


def test_the_conventions_on_one_batch():
    """The paper and SAELens add, the groups' mean divides by n, dictionary_learning by n again."""
    sae = make_sae("batch_topk")
    total = sum(plain_error(sae, n) for n in ENDS)
    ends = {"fractions": None, "ends": ENDS}
    losses = {
        "sum": step(term("prefix_reconstruction", levels="sum", **ends), sae, make_rows()),
        "mean": step(term("prefix_reconstruction", **ends), sae, make_rows()),
        "compat": step(term("prefix_reconstruction", compat="dictionary_learning", **ends), sae, make_rows()),
    }
    assert {name: float(result.loss) for name, result in losses.items()} == pytest.approx(
        {"sum": total, "mean": total / 4, "compat": total / 16}, rel=1e-12
    )
    torch.testing.assert_close(losses["sum"].gradients["W_enc"], losses["compat"].gradients["W_enc"] * 16)


def test_normalised_prefixes_are_those_of_hypothesaes():
    """Mean over prefixes of mse / mse of the batch's mean row."""
    sae, x_BM = make_sae("topk"), make_rows()
    baseline = float((x_BM.mean(0) - x_BM).square().mean())
    expected = sum(plain_error(sae, n) / D_MODEL / baseline for n in (12, D_SAE)) / 2
    found = step(term("prefix_reconstruction", fractions=None, ends=[12, D_SAE], reduction="fvu"), sae, x_BM)
    assert float(found.loss) == pytest.approx(expected, rel=1e-12)
    moved = step(term("prefix_reconstruction", fractions=None, ends=[12, D_SAE], reduction="fvu"), sae, x_BM * 2)
    assert float(moved.loss) != pytest.approx(
        expected, rel=1e-3
    )  # the codes changed, too: only a scaled SAE is free of it


@pytest.mark.parametrize(
    ("d_sae", "ends"),
    [
        (48, [8, 12, 48]),
        (64, [8, 16, 64]),
        (100, [8, 12, 25, 100]),
        (1024, [32, 64, 128, 256, 1024]),
        (16384, [512, 1024, 2048, 4096, 16384]),
    ],
)
def test_the_ladder_of_seed_0(d_sae, ends):
    """sorted(set(max(8, round(d_sae / 32)), ...)), then d_sae."""
    settings = TERMS["prefix_reconstruction"].Settings(smallest=8)
    ladder = sorted({max(8, round(d_sae * share)) for share in (1 / 32, 1 / 16, 1 / 8, 1 / 4)} | {d_sae})
    assert prefix_ends(settings, d_sae) == ends == ladder
    check_terms({"prefix_reconstruction": settings}, TOPK.model_copy(update={"d_sae": d_sae}))


def test_ends_and_fractions_say_the_same():
    sae = make_sae("relu")
    by_ends = step(term("prefix_reconstruction", fractions=None, ends=ENDS), sae, make_rows())
    by_fractions = step(term("prefix_reconstruction", fractions=[n / D_SAE for n in ENDS]), sae, make_rows())
    assert torch.equal(by_ends.loss, by_fractions.loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ends": [4, 64]}, "either as fractions or as ends"),
        ({"fractions": None}, "either as fractions or as ends"),
        ({"compat": "dictionary_learning", "levels": "sum"}, "averages over the prefixes, got levels 'sum'"),
    ],
)
def test_contradicting_prefixes_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        TERMS["prefix_reconstruction"].Settings(**options)


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ([4, 32], r"prefixes of \[4, 32\] latents, but the last must hold all 64"),
        ([4, 65], "must hold all 64"),
        ([4, 4, 64], "two are equal"),
        ([0, 64], "one is empty"),
        ([], "one is empty"),
    ],
)
def test_ends_that_do_not_fit_are_refused(ends, message):
    with pytest.raises(ValueError, match=message):
        check_terms(term("prefix_reconstruction", fractions=None, ends=ends), TOPK)


# -- ranks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ks", [[4], [1, 4], [1, 2, 3, 4]])
@pytest.mark.parametrize("reduction", ["sum", "mean", "fvu"])
def test_hierarchical_topk_equals_autograd(ks, reduction, path):
    changes = {"ks": ks, "reduction": reduction, "weight": 0.7}
    assert_equal_to_reference(make_sae("topk"), settings_of(["hierarchical_topk"], hierarchical_topk=changes))


def test_one_k_is_the_plain_reconstruction(path):
    sae = make_sae("topk")
    ranked, plain = (
        step(terms, sae, make_rows()) for terms in (term("hierarchical_topk", ks=[4]), term("reconstruction"))
    )
    torch.testing.assert_close(ranked.loss, plain.loss, rtol=1e-13, atol=0)
    assert largest_difference(ranked.gradients, plain.gradients) < 1e-12
    two = step(term("hierarchical_topk", ks=[2, 4]), sae, make_rows())
    assert largest_difference(two.gradients, plain.gradients) > 1e-2


def test_its_loss_is_the_mean_over_saes_of_each_k():
    sae = make_sae("topk")
    errors = [float(step(term("reconstruction"), make_sae("topk", k=k), make_rows()).loss) for k in (1, 3, 4)]
    found = step(term("hierarchical_topk", ks=[1, 3, 4]), sae, make_rows())
    assert float(found.loss) == pytest.approx(sum(errors) / 3, rel=1e-12)


@pytest.mark.parametrize("ks", [[], [0, 4], [2, 2, 4], [4, 2]])
def test_ks_that_do_not_rise_are_refused(ks):
    with pytest.raises(ValidationError):
        TERMS["hierarchical_topk"].Settings(ks=ks)


@pytest.mark.parametrize("k", [3, 5, Schedule(start=8, end=4)])
def test_ks_must_end_with_a_constant_k(k):
    settings = ARCHITECTURES["topk"].Settings(d_sae=64, k=k)
    with pytest.raises(ValueError, match=r"ks \[1, 4\] must end with sae.k, a number"):
        check_terms(term("hierarchical_topk", ks=[1, 4]), settings)


# -- multiples of k --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["topk", "batch_topk"])
@pytest.mark.parametrize("reduction", ["sum", "mean", "fvu"])
@pytest.mark.parametrize("multiple", [2, 5, 12])
def test_multi_k_equals_autograd(architecture, reduction, multiple, path):
    changes = {"multiple": multiple, "reduction": reduction}
    assert_equal_to_reference(make_sae(architecture), settings_of(["reconstruction", "multi_k"], multi_k=changes))


def test_multi_k_is_the_error_of_a_larger_k():
    sae = make_sae("topk")
    larger = step(term("reconstruction", reduction="fvu"), make_sae("topk", k=16), make_rows())
    both = step({**term("reconstruction"), **term("multi_k", weight=1.0)}, sae, make_rows())
    assert float(both.losses["multi_k"]) == pytest.approx(float(larger.loss), rel=1e-12)


def test_multi_k_at_weight_zero_has_the_same_bits():
    sae = make_sae("topk")
    plain = step(term("reconstruction"), sae, make_rows())
    off, on = (step({**term("reconstruction"), **term("multi_k", weight=w)}, sae, make_rows()) for w in (0.0, 0.1))
    assert torch.equal(plain.loss, off.loss)
    assert all(torch.equal(plain.gradients[name], off.gradients[name]) for name in plain.gradients)
    assert largest_difference(on.gradients, plain.gradients) > 1e-3


@pytest.mark.parametrize("k", [17, Schedule(start=17, end=4)])
def test_a_multiple_beyond_d_sae_is_refused(k):
    settings = ARCHITECTURES["topk"].Settings(d_sae=64, k=k)
    with pytest.raises(ValueError, match=r"multiple \(4\) times sae.k \(17.*\) must not exceed d_sae \(64\)"):
        check_terms({**term("reconstruction"), **term("multi_k")}, settings)


# -- reductions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["sum", "mean", "fvu"])
@pytest.mark.parametrize("architecture", ["relu", "topk"])
def test_reductions_equal_autograd(architecture, reduction):
    settings = settings_of(["reconstruction"], reconstruction={"reduction": reduction})
    assert_equal_to_reference(make_sae(architecture), settings)


def test_a_penalty_beside_the_mean_is_d_model_times_as_strong():
    """Seed 0's mean over elements beside weight w is our sum beside w * d_model, but for one factor of everything."""
    sae = make_sae("relu")
    mean = step({**term("reconstruction", reduction="mean"), **term("l1", weight=0.02)}, sae, make_rows())
    scaled, same = (
        step({**term("reconstruction"), **term("l1", weight=w)}, sae, make_rows()) for w in (0.02 * D_MODEL, 0.02)
    )
    times = {name: gradient * D_MODEL for name, gradient in mean.gradients.items()}
    assert largest_difference(times, scaled.gradients) < 1e-12
    assert largest_difference(times, same.gradients) > 0.01


def test_the_share_of_variance_does_not_depend_on_the_scale():
    sae, x_BM = make_sae("relu"), make_rows()
    larger = type(sae)(sae.settings, D_MODEL, {**sae.parameters(), "b_enc": sae.b_enc * 3, "b_dec": sae.b_dec * 3})
    for reduction, factor in (("fvu", 1.0), ("sum", 9.0), ("mean", 9.0)):
        small, large = (
            step(term("reconstruction", reduction=reduction), s, x) for s, x in ((sae, x_BM), (larger, 3 * x_BM))
        )
        assert float(large.loss) == pytest.approx(factor * float(small.loss), rel=1e-12)
