"""Resampling really changes the weights, decided by seed and step alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from strata_sae.pipeline.config.variants import ResamplingSettings
from strata_sae.pipeline.trainer import trainee
from strata_sae.pipeline.trainer.resample import draw_rows, is_due, restart
from strata_sae.pipeline.trainer.train import train
from support.small_run import RELU
from support.trained_run import curves, hashes, train_until, weights

D_SAE, D_MODEL = 9, 5
DEAD = [1, 4, 5, 8]
PAPER = ResamplingSettings()
COMPAT = ResamplingSettings(compat="dictionary_learning")
OFTEN = {"every_steps": 7, "dead_after_steps": 3, "until_step": 45}
DYING = {
    **RELU,
    "objective": {"reconstruction": {}, "l1": {"weight": 2.0}},
    "training": {"learning_rate": 0.02},
    "resampling": OFTEN,
}


def state(seed: int = 0) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (D_SAE, D_MODEL), "W_dec": (D_SAE, D_MODEL), "b_enc": (D_SAE,), "b_dec": (D_MODEL,)}
    shapes["threshold"] = (D_SAE,)

    def draw() -> dict[str, torch.Tensor]:
        return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    return draw(), [draw(), draw()]


def dead() -> torch.Tensor:
    return torch.zeros(D_SAE, dtype=torch.bool).index_fill_(0, torch.tensor(DEAD), True)


def chained_indexing(
    parameters: dict[str, torch.Tensor], memories: Any, rows_BM: torch.Tensor, dead_E: torch.Tensor, *_: Any
) -> torch.Tensor:
    """The bug of dictionary_learning's p-anneal trainers: what is written to is a copy."""
    latents = dead_E.nonzero().squeeze(1)
    parameters["W_enc"][dead_E][: len(rows_BM)] = rows_BM
    parameters["W_dec"][dead_E][: len(rows_BM)] = rows_BM
    return latents[: len(rows_BM)]


def check_restart(settings: ResamplingSettings, n_rows: int, do: Callable[..., torch.Tensor] = restart) -> None:
    """Every changed number against the paper's words (or the library's), every other one bit for bit as before."""
    before, memory_before = state()
    after, memory_after = state()
    rows_BM = 3.0 * torch.randn(n_rows, D_MODEL, generator=torch.Generator().manual_seed(9))
    assert do(after, memory_after, rows_BM, dead(), settings).tolist() == DEAD[:n_rows]
    living = sum(before["W_enc"][latent].norm() for latent in range(D_SAE) if latent not in DEAD) / (D_SAE - len(DEAD))
    for latent in range(D_SAE):
        if latent in DEAD[:n_rows]:
            row = rows_BM[DEAD.index(latent)]
            encoder = row if settings.compat else row / row.norm()
            torch.testing.assert_close(after["W_dec"][latent], row / row.norm())
            torch.testing.assert_close(after["W_enc"][latent], encoder * living * 0.2)
            assert after["b_enc"][latent] == 0
            assert all(m[name][latent].abs().sum() == 0 for m in memory_after for name in m if name != "b_dec")
        else:
            for old, new in zip([before, *memory_before], [after, *memory_after], strict=True):
                assert all(torch.equal(old[name][latent], new[name][latent]) for name in old if name != "b_dec")
    assert torch.equal(before["threshold"], after["threshold"])
    assert torch.equal(before["b_dec"], after["b_dec"])
    assert torch.equal(memory_before[0]["b_dec"], memory_after[0]["b_dec"])


@pytest.mark.parametrize("settings", [PAPER, COMPAT], ids=["paper", "dictionary_learning"])
@pytest.mark.parametrize("n_rows", [0, 2, 4])
def test_dead_latents_start_at_the_rows_drawn(settings, n_rows):
    check_restart(settings, n_rows)


def test_control_writing_to_a_copy_is_seen():
    with pytest.raises(AssertionError):
        check_restart(PAPER, 2, chained_indexing)


def test_when_all_are_dead_the_encoder_still_gets_a_finite_norm():
    parameters, memories = state()
    rows_BM = torch.randn(D_SAE, D_MODEL, generator=torch.Generator().manual_seed(1))
    restart(parameters, memories, rows_BM, torch.ones(D_SAE, dtype=torch.bool), PAPER)
    torch.testing.assert_close(parameters["W_enc"].norm(dim=1), torch.full((D_SAE,), 0.2))


@pytest.mark.parametrize(("settings", "odds"), [(PAPER, 16.0), (COMPAT, 2.0)])
def test_rows_are_drawn_in_proportion(settings, odds):
    error_B = torch.tensor([1.0, 2.0, 0.0])
    drawn = [int(draw_rows(error_B, 1, settings, seed=0, step=step)) for step in range(4000)]
    assert drawn.count(2) == 0
    assert drawn.count(1) / 4000 == pytest.approx(odds / (odds + 1), abs=0.02)


def test_a_draw_is_decided_by_seed_and_step_and_repeats_no_row():
    error_B = torch.rand(50, generator=torch.Generator().manual_seed(0))
    first = draw_rows(error_B, 20, PAPER, seed=0, step=7)
    torch.rand(3)
    assert torch.equal(first, draw_rows(error_B, 20, PAPER, seed=0, step=7))
    assert not torch.equal(first, draw_rows(error_B, 20, PAPER, seed=0, step=14))
    assert not torch.equal(first, draw_rows(error_B, 20, PAPER, seed=1, step=7))
    assert len(set(first.tolist())) == 20
    assert len(draw_rows(torch.tensor([0.0, 1.0, float("inf"), float("nan")]), 4, PAPER, seed=0, step=1)) == 1


def test_steps_at_which_it_happens():
    settings = ResamplingSettings(every_steps=10, until_step=30)
    assert [step for step in range(1, 60) if is_due(settings, step)] == [10, 20, 30]
    assert not any(is_due(None, step) for step in range(60))


def resampled() -> list[int]:
    return [int(line["step"]) for line in curves("relu") if line["resampled_latents"]]


@pytest.mark.parametrize("save", [1, 3, 5])
def test_training_resamples_and_resumes_bit_identically(make_config, monkeypatch, save):
    config = make_config({"relu": DYING}, log_every_steps=1)
    train(config, show_progress=False)
    assert resampled()
    assert set(resampled()) <= set(range(7, 46, 7))
    expected = hashes()
    monkeypatch.chdir(new_folder())
    train_until(config, monkeypatch, save, before=False)
    train(config, show_progress=False)
    assert hashes() == expected


def test_control_a_no_op_is_seen_in_the_weights(make_config, monkeypatch):
    config = make_config({"relu": DYING})
    train(config, show_progress=False)
    really = weights("relu")["W_dec"]
    monkeypatch.chdir(new_folder())
    monkeypatch.setattr(trainee, "restart", chained_indexing)
    train(config, show_progress=False)
    assert not torch.equal(weights("relu")["W_dec"], really)


def new_folder() -> Path:
    Path("again").mkdir()
    return Path("again").resolve()
