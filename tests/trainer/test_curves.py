import json
from pathlib import Path

import pytest
import torch

from strata_sae.pipeline.runs.record_files import line_of
from strata_sae.pipeline.trainer.checkpoint import prefix_of
from strata_sae.pipeline.trainer.session import Curves, batch_r2, decoder_max_cosine_mean, has_cosines, is_logged
from support.made_up_records import curve_line


def test_reopening_cuts_what_lies_behind_the_offset(tmp_path: Path):
    path = tmp_path / "curves.jsonl"
    curves = Curves(path, 0)
    lines = [curve_line(1), curve_line(2, loss=float("nan")), curve_line(3)]
    curves.write(lines[0])
    offset = curves.sync().n_bytes
    curves.write(lines[1])
    curves.close()
    curves.close()
    assert json.loads(path.read_text().splitlines()[1])["loss"] is None
    again = Curves(path, offset)
    again.write(lines[2])
    again.close()
    assert again.sha256() == prefix_of(path, 10**6).sha256
    assert path.read_bytes() == line_of(lines[0]) + line_of(lines[2])


def test_first_and_last_step_are_logged():
    assert [step for step in range(1, 24) if is_logged(step, 10, 23)] == [1, 10, 20, 23]


@pytest.mark.parametrize(("every", "n_steps"), [(1, 3), (5, 60), (25, 10_000), (25, 100), (7, 990)])
def test_about_twenty_lines_carry_cosines(every, n_steps):
    logged = {step for step in range(1, n_steps + 1) if is_logged(step, every, n_steps)}
    steps = {step for step in range(1, n_steps + 1) if has_cosines(step, every, n_steps)}
    assert steps <= logged
    assert min(20, len(logged)) * 0.7 <= len(steps) <= 32


def test_batch_r2():
    x_BM = torch.tensor([[0.0, 2.0], [4.0, 2.0]])
    assert batch_r2(x_BM, x_BM) == 1.0
    assert batch_r2(x_BM, x_BM.mean(dim=0).expand_as(x_BM)) == 0.0
    assert batch_r2(x_BM, x_BM + 1.0) == pytest.approx(0.5)


@pytest.mark.parametrize("tile_rows", [1, 7, 1024])
def test_decoder_cosines_equal_the_full_matrix(tile_rows):
    W_dec = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    unit = W_dec / W_dec.norm(dim=1, keepdim=True)
    cosine = unit @ unit.T
    cosine.fill_diagonal_(-1.0)
    expected = float(cosine.amax(dim=1).mean())
    assert decoder_max_cosine_mean(W_dec, tile_rows) == pytest.approx(expected, abs=1e-6)
