import pytest
import torch

from strata_sae.pipeline.saes import initial_weights
from strata_sae.pipeline.saes.topk import TopK
from strata_sae.pipeline.trainer.centres import CENTRES, geometric_median
from strata_sae.pipeline.trainer.one_pass import weight_generator

D_SAE, D_MODEL = 256, 32


def weights(seed: int = 0, **initial) -> dict[str, torch.Tensor]:
    settings = TopK.Settings.model_validate({"d_sae": D_SAE, "k": 4, "initial": initial})
    return initial_weights(settings, D_MODEL, weight_generator(seed, D_SAE, D_MODEL))


def test_generator_depends_on_seed_and_shape_alone():
    def draw(*key: int) -> list[float]:
        return torch.rand(3, generator=weight_generator(*key)).tolist()

    torch.manual_seed(1)
    first = draw(0, 64, 16)
    torch.rand(5)  # the global stream plays no part
    assert draw(0, 64, 16) == first
    assert draw(1, 64, 16) != first
    assert draw(0, 32, 16) != first
    assert draw(0, 64, 8) != first


def test_geometric_median_of_three_collinear_points_is_the_middle_one():
    median_M = geometric_median(torch.tensor([[0.0, 0.0], [1.0, 1.0], [9.0, 9.0]]))
    assert torch.allclose(median_M, torch.tensor([1.0, 1.0]), atol=1e-3)


def test_geometric_median_minimises_the_total_distance():
    x_BM = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    x_BM[:20] += 50.0

    def total(point_M: torch.Tensor) -> float:
        return float((x_BM - point_M).norm(dim=1).sum())

    median_M = geometric_median(x_BM)
    assert median_M.dtype == torch.float32
    best = total(median_M)
    for shift in torch.randn(50, 3, generator=torch.Generator().manual_seed(1)) * 0.05:
        assert total(median_M + shift) > best
    assert total(x_BM.mean(dim=0)) > best


def test_a_row_at_the_guess_does_no_harm():
    equal_BM = torch.ones(7, 4)
    assert torch.equal(geometric_median(equal_BM), torch.ones(4))


def reference_median(x_BM: torch.Tensor) -> torch.Tensor:
    """The minimum of the total distance, by a general minimiser: nothing of Weiszfeld's."""
    point_M = x_BM.double().mean(dim=0).requires_grad_()
    minimiser = torch.optim.LBFGS([point_M], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def total() -> torch.Tensor:
        minimiser.zero_grad()
        distance = (x_BM.double() - point_M).norm(dim=1).sum()
        distance.backward()
        return distance

    minimiser.step(total)
    return point_M.detach()


@pytest.mark.parametrize("seed", range(4))
def test_geometric_median_matches_a_reference(seed):
    x_BM = torch.randn(500, 12, generator=torch.Generator().manual_seed(seed)) + 3.0
    x_BM[:100, 0] += 40.0
    assert torch.allclose(geometric_median(x_BM).double(), reference_median(x_BM), atol=1e-5)
    assert not torch.allclose(x_BM.double().mean(dim=0), reference_median(x_BM), atol=1e-2)  # the control


@pytest.mark.parametrize("n_rows", [7, 8])
def test_the_other_centres(n_rows):
    x_BM = torch.randn(n_rows, 3, generator=torch.Generator().manual_seed(0))
    assert CENTRES.keys() == set(TopK.Settings(d_sae=4, k=1).initial.model_json_schema()["properties"]["b_dec"]["enum"])
    assert torch.equal(CENTRES["mean"](x_BM), x_BM.mean(dim=0))
    assert torch.allclose(CENTRES["median"](x_BM), x_BM.quantile(0.5, dim=0))
    assert torch.equal(CENTRES["zero"](x_BM), torch.zeros(3))


@pytest.mark.parametrize("kind", ["kaiming", "linear", "normal"])
@pytest.mark.parametrize("norm", [1.0, 0.1])
def test_rows_of_the_decoder_have_the_norm_asked_for(kind, norm):
    found = weights(weights=kind, decoder_norm=norm)
    assert torch.allclose(found["W_dec"].norm(dim=1), torch.full((D_SAE,), norm))
    assert torch.equal(found["W_enc"], found["W_dec"])
    assert float(found["b_enc"].abs().sum() + found["b_dec"].abs().sum()) == 0.0


@pytest.mark.parametrize(
    ("kind", "decoder_std", "encoder_std"),
    [
        ("kaiming", (2 / D_MODEL) ** 0.5, (2 / D_MODEL) ** 0.5),
        ("linear", (1 / 3 / D_SAE) ** 0.5, (1 / 3 / D_MODEL) ** 0.5),
        ("normal", (1 / D_MODEL) ** 0.5, (1 / D_MODEL) ** 0.5),
    ],
)
def test_as_drawn_the_matrices_have_their_distributions_spread(kind, decoder_std, encoder_std):
    found = weights(weights=kind, decoder_norm=None, encoder="independent")
    assert float(found["W_dec"].std()) == pytest.approx(decoder_std, rel=0.03)
    assert float(found["W_enc"].std()) == pytest.approx(encoder_std, rel=0.03)
    assert abs(float(torch.nn.functional.cosine_similarity(found["W_enc"], found["W_dec"]).mean())) < 0.03


def test_a_uniform_bias_stays_within_its_bound():
    bias_E = weights(b_enc="uniform")["b_enc"]
    assert 0.9 < float(bias_E.abs().max()) * D_MODEL**0.5 < 1.0
    assert abs(float(bias_E.mean())) < 0.03


def test_bits_are_decided_by_seed_and_shape():
    plain, other = weights(), weights(encoder="independent", b_enc="uniform", b_dec="zero")
    assert torch.equal(plain["W_dec"], other["W_dec"])
    assert not torch.equal(plain["W_dec"], weights(1)["W_dec"])
    assert torch.equal(weights(weights="linear")["W_dec"].sign(), plain["W_dec"].sign())
