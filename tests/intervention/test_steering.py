"""The question `steer`: the texts that follow at each alpha are the model's own, and how far its predictions move."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import strata_sae as strata
from strata_sae.pipeline.analysis.asked import Asked
from strata_sae.pipeline.analysis.of_model import ALPHAS, answer_steer
from strata_sae.pipeline.codes.build import build_codes
from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.intervention.run_model import RunModel
from strata_sae.pipeline.queries.asked_model import Edit
from strata_sae.pipeline.queries.opened import CodedRun, open_coded
from support.asked_run import ROUGH, SAME, TEXT, asked, make

LATENT, N = 3, 6


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> CodedRun:
    run = make(tmp_path_factory.mktemp("steered"))
    for name in (ROUGH, SAME):
        build_codes(run.path, only=name)
    return open_coded(run.path)


@pytest.fixture(scope="module")
def model(coded: CodedRun) -> RunModel:
    return asked(coded.folder, (ROUGH,))


def question(coded: CodedRun, model: Any, **changes: Any) -> Asked:
    return Asked(coded, coded.saes[ROUGH], None, LATENT, N, 0.0, None, "as_trained", TEXT, model)._replace(**changes)


def test_texts_and_divergences_are_those_of_the_model(coded: CodedRun, model: RunModel) -> None:
    answer = answer_steer(question(coded, model))
    names = [column.name for column in answer.columns]
    rows = [dict(zip(names, row, strict=True)) for row in answer.rows]
    assert [row["alpha"] for row in rows] == [0, 15, 25, 50, 100, 150, 200]
    (plain,) = model.continuations(TEXT, [[]], N)
    assert (rows[0]["following"], rows[0]["kl_nat"]) == (plain, 0.0)
    assert len({row["following"] for row in rows}) > 1
    for row in rows[1:]:
        way = [Edit(ROUGH, LATENT, "steer", row["alpha"])]
        assert [row["following"]] == model.continuations(TEXT, [way], N)
        kl_S = model.prompt(TEXT, way).kl_S
        assert kl_S is not None
        assert row["kl_nat"] == pytest.approx(kl_S[1:].mean(), rel=1e-5)
    norm = float(torch.linalg.norm(coded.saes[ROUGH].trained.sae.W_dec[LATENT]))
    assert [row["length"] for row in rows] == pytest.approx([alpha * norm for alpha in ALPHAS])


def test_the_largest_value_is_that_of_the_rows_it_was_trained_on(coded: CodedRun, model: RunModel) -> None:
    """Rows that training's filters leave out, such as long ones, do not count."""
    sae = coded.saes[ROUGH]
    rows, values = sae.codes.rows_of(LATENT)
    kept = sae.kept("as_trained")
    largest = max(float(value) for row, value in zip(rows, values, strict=True) if kept[row])
    answer = answer_steer(question(coded, model))
    assert [row[1] for row in answer.rows] == pytest.approx([alpha / largest for alpha in ALPHAS], rel=1e-6)
    assert f"largest value is {largest:.4g}" in answer.says


def test_a_latent_that_is_silent_everywhere_has_no_largest_value(
    coded: CodedRun, model: RunModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(coded.saes[ROUGH].codes), "rows_of", lambda self, latent: (np.zeros(0, int), np.zeros(0)))
    answer = answer_steer(question(coded, model))
    assert [row[1] for row in answer.rows] == [None] * len(ALPHAS)


def test_the_command_writes_a_table_and_a_page(
    coded: CodedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(coded.folder.path.parents[1])
    arguments = ["analyze", f"runs/small/{ROUGH}", "steer", "--latent", str(LATENT), "--text", TEXT, "--n", str(N)]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (table,) = tmp_path.glob("steer/*.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [float(row["alpha"]) for row in rows] == list(ALPHAS)
    page = table.with_suffix(".html").read_text()
    assert "as it is turned up" in page
    assert f"The text is \N{LEFT DOUBLE QUOTATION MARK}{TEXT}\N{RIGHT DOUBLE QUOTATION MARK}." in page


def test_a_text_of_special_tokens_alone_is_refused(coded: CodedRun, model: RunModel) -> None:
    """As a tokenizer without bytes makes of characters that it does not know: no row of it is edited."""

    class Unknown:
        def prompt(self, *given: Any) -> Any:
            found = model.prompt(*given)
            return found._replace(is_special=[True] * len(found.token_ids))

    with pytest.raises(strata.ConfigError, match="--text: every token of it is a special one"):
        answer_steer(question(coded, Unknown()))


def test_more_tokens_than_a_continuation_has_are_refused(coded: CodedRun, model: RunModel) -> None:
    with pytest.raises(strata.ConfigError, match="--n: 513; a continuation has at most 512 tokens"):
        answer_steer(question(coded, model, n=513))
