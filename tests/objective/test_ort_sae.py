"""OrtSAE: its chunks, its nearest latents, and steps that are left out and resumed."""

import pytest
import torch

from strata_sae.pipeline.objective import TERMS, Objective, check_terms, ort_sae
from strata_sae.pipeline.objective.ort_sae import chunks, nearest_of
from strata_sae.pipeline.saes import ARCHITECTURES
from support.gradient_parity import (
    assert_equal_to_reference,
    largest_difference,
    make_rows,
    make_sae,
    settings_of,
    step,
)


@pytest.mark.parametrize(("n_latents", "chunk_size"), [(48, 48), (48, 100), (48, 20), (49, 7), (8192, 8191)])
def test_chunks_are_a_partition_into_as_few_equal_parts_as_fit(n_latents, chunk_size):
    parts = chunks(n_latents, chunk_size, seed=0, step=1)
    assert torch.cat(parts).sort().values.tolist() == list(range(n_latents))
    assert len(parts) == -(-n_latents // chunk_size)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_chunks_follow_from_seed_and_step_alone():
    drawn = {(seed, t): torch.cat(chunks(48, 20, seed, t)).tolist() for seed in (0, 1) for t in (1, 2, 12)}
    torch.manual_seed(5)
    assert torch.cat(chunks(48, 20, 1, 12)).tolist() == drawn[1, 12]
    assert len({tuple(order) for order in drawn.values()}) == len(drawn)


@pytest.mark.parametrize("tile_rows", [1, 4, 1000])
def test_the_nearest_is_another_row_in_any_tiles(tile_rows, monkeypatch):
    monkeypatch.setattr(ort_sae, "TILE_ROWS", tile_rows)
    unit_EM = torch.nn.functional.normalize(torch.randn(11, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    largest_E, nearest_E = nearest_of(unit_EM)
    for i in range(11):
        cosines = [float(unit_EM[i] @ unit_EM[j]) if j != i else -2.0 for j in range(11)]
        assert int(nearest_E[i]) == max(range(11), key=cosines.__getitem__)
        assert float(largest_E[i]) == pytest.approx(max(cosines), abs=1e-6)


@pytest.mark.parametrize("chunk_size", [2, 20, 48])
def test_gradients_equal_autograd_of_free_rows_of_any_norm(chunk_size):
    settings = settings_of(["reconstruction", "ort_sae"], ort_sae={"chunk_size": chunk_size})
    sae = make_sae("topk", decoder="free")
    sae.W_dec *= torch.linspace(0.5, 2.0, sae.d_sae, dtype=torch.float64)[:, None]
    assert_equal_to_reference(sae, settings)
    other = settings_of(["reconstruction", "ort_sae"], ort_sae={"chunk_size": chunk_size, "weight": 0.4})
    one, two = (step(each, sae, make_rows()).gradients for each in (settings, other))
    assert largest_difference(one, two) > 1e-6


def test_one_chunk_is_the_penalty_over_all_pairs():
    sae = make_sae("topk")
    result = step(
        settings_of(["reconstruction", "ort_sae"], ort_sae={"chunk_size": 48, "weight": 1.0}), sae, make_rows()
    )
    cosines_EE = (sae.W_dec @ sae.W_dec.T).fill_diagonal_(-2)
    assert float(result.losses["ort_sae"]) == pytest.approx(float(cosines_EE.amax(1).square().mean()))
    assert float(result.monitors["ort_sae/mean_max_cos"]) == pytest.approx(float(cosines_EE.amax(1).mean()))


def test_a_resumed_run_draws_the_chunks_that_the_whole_run_draws():
    sae, options = make_sae("topk"), {"every_steps": 2, "chunk_size": 16}
    settings = settings_of(["reconstruction", "ort_sae"], ort_sae=options)

    def losses(interrupted: bool, keeps_state: bool = True) -> list[float]:
        running, found = Objective(settings, sae), []
        for t in range(8):
            if interrupted and t in (3, 6):
                state, running = running.state(), Objective(settings, sae)
                running.load_state(state if keeps_state else {})
            found.append(float(running.forward_backward(make_rows()).losses["ort_sae"]))
        return found

    whole = losses(interrupted=False)
    assert [loss > 0 for loss in whole] == [False, True] * 4
    assert len(set(whole)) == 5
    assert losses(interrupted=True) == whole
    assert losses(interrupted=True, keeps_state=False) != whole


def test_a_chunk_of_one_latent_is_refused():
    settings = {
        "reconstruction": TERMS["reconstruction"].Settings(),
        "ort_sae": TERMS["ort_sae"].Settings(chunk_size=2),
    }
    with pytest.raises(ValueError, match="cuts d_sae 7 into 4 chunks, of which one has a single latent"):
        check_terms(settings, ARCHITECTURES["topk"].Settings(d_sae=7, k=2))
    check_terms(settings, ARCHITECTURES["topk"].Settings(d_sae=8, k=2))
