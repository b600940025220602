"""Sparse and dense codes give what the full matrix gives, twice the same bits."""

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes, DenseCodes, SparseCodes

B, E, M = 7, 12, 5


def planted(density: float, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    values_BE = torch.rand(B, E, generator=generator, dtype=dtype) + 0.1
    values_BE[torch.rand(B, E, generator=generator) > density] = 0.0
    if 0 < density < 1:
        values_BE[2] = 0.0  # a row without latents
        values_BE[:, 4] = 0.0  # a latent without rows
    return values_BE


def entries_of(values_BE: Tensor, index_dtype: torch.dtype = torch.int64, shuffled: bool = True) -> SparseCodes:
    """The nonzero entries, in any order within a row, built with plain loops."""
    values, indices, offsets = [], [], [0]
    for row in values_BE:
        latents = row.nonzero().squeeze(1).tolist()
        latents = latents[::-1] if shuffled else latents
        values += [float(row[latent]) for latent in latents]
        indices += latents
        offsets.append(len(indices))
    return SparseCodes(
        torch.tensor(values, dtype=values_BE.dtype),
        torch.tensor(indices, dtype=index_dtype),
        torch.tensor(offsets, dtype=index_dtype),
        E,
    )


CASES = [
    pytest.param(kind, density, id=f"{kind}-{density}")
    for kind in ("sparse64", "sparse32", "dense")
    for density in (0.0, 0.3, 1.0)
]


def make(kind: str, density: float, dtype: torch.dtype = torch.float64) -> tuple[Codes, Tensor]:
    values_BE = planted(density, dtype)
    if kind == "dense":
        return DenseCodes(values_BE), values_BE
    return entries_of(values_BE, torch.int32 if kind == "sparse32" else torch.int64), values_BE


def random(*shape: int, seed: int = 4) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def as_matrix(codes: Codes, values: Tensor) -> Tensor:
    return codes.with_values(values).to_dense()


@pytest.mark.parametrize(("kind", "density"), CASES)
def test_every_method_equals_the_full_matrix(kind, density):
    codes, values_BE = make(kind, density)
    W_EM, left_BM, other_BE = random(E, M), random(B, M, seed=5), random(B, E, seed=6)
    active_BE = values_BE > 0
    other = other_BE if kind == "dense" else other_BE[codes.rows_P.long(), codes.indices_P.long()]
    other_BE = other_BE if kind == "dense" else other_BE * active_BE
    assert (codes.batch_size, codes.n_latents, codes.n_active()) == (B, E, int(active_BE.sum()))
    assert torch.equal(codes.to_dense(), values_BE)
    assert torch.equal(codes.to_sparse().to_dense(), values_BE)
    assert torch.equal(codes.active_E(), active_BE.any(0))
    assert torch.equal(codes.active_rows_E(), active_BE.sum(0))
    torch.testing.assert_close(codes.decode(W_EM), values_BE @ W_EM)
    torch.testing.assert_close(codes.transposed_times(left_BM), values_BE.T @ left_BM)
    torch.testing.assert_close(codes.transposed_times(left_BM, other), other_BE.T @ left_BM)
    torch.testing.assert_close(codes.latent_sums(), values_BE.sum(0))
    torch.testing.assert_close(codes.latent_sums(other), other_BE.sum(0))
    dots_BE = left_BM @ W_EM.T
    expected_BE = dots_BE if kind == "dense" else dots_BE * active_BE
    torch.testing.assert_close(as_matrix(codes, codes.dots(left_BM, W_EM)), expected_BE)


@pytest.mark.parametrize(("kind", "density"), CASES)
def test_columns_are_a_part_with_places_in_the_whole(kind, density):
    codes, values_BE = make(kind, density)
    for start, stop in [(0, E), (0, 3), (3, 9), (9, E)]:
        part, places = codes.columns(start, stop)
        assert torch.equal(part.values, codes.values[places])
        assert part.n_latents == stop - start
        assert torch.equal(part.to_dense(), values_BE[:, start:stop])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_inputs_give_equal_bits(dtype):
    left_BM, W_EM = random(B, M).to(dtype), random(E, M).to(dtype)
    first, second = (make("sparse64", 0.3, dtype)[0] for _ in range(2))
    assert torch.equal(first.decode(W_EM), second.decode(W_EM))
    assert torch.equal(first.dots(left_BM, W_EM), second.dots(left_BM, W_EM))
    assert torch.equal(first.transposed_times(left_BM), second.transposed_times(left_BM))
    assert torch.equal(first.latent_sums(), second.latent_sums())


def test_the_number_of_threads_changes_no_bit():
    generator = torch.Generator().manual_seed(7)
    values_BE = torch.randn(300, 1000, generator=generator).clamp(min=0) * (
        torch.rand(300, 1000, generator=generator) < 0.05
    )
    left_BM, W_EM = torch.randn(300, 64, generator=generator), torch.randn(1000, 64, generator=generator)
    before, results = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            codes = DenseCodes(values_BE).to_sparse()
            results.append((codes.decode(W_EM), codes.dots(left_BM, W_EM), codes.transposed_times(left_BM)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
