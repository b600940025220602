import torch

from pipeline.trainer.initialise import geometric_median, weight_generator


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
