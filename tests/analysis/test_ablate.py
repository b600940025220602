"""`strata analyze ... ablate` and `ablate_tuples`: tables of measured effects, by the command, on a tiny model."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from strata_sae.pipeline.analysis import of_ablations
from strata_sae.pipeline.analysis.asked import Asked
from strata_sae.pipeline.analysis.of_ablations import _text_of
from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.intervention import ablation
from strata_sae.pipeline.intervention.ablation import measured_effects
from strata_sae.pipeline.queries.asked_model import MeasuredEffects
from strata_sae.pipeline.queries.opened import open_coded
from support import ablated_run
from support.ablated_run import ABLATED, EARLY, LATE, READER
from support.page_parser import Page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablated")


@pytest.fixture(scope="module")
def made(folder: Path) -> TrainConfig:
    return ablated_run.make(folder, sites=[EARLY, LATE])


@pytest.fixture
def found(made: TrainConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> MeasuredEffects:
    """What the model says, in the run's folder; it is kept, so that no test after the first one loads it for this."""
    monkeypatch.chdir(folder)
    run = ablated_run.opened(made)
    return measured_effects(made, run.saes[ABLATED], run.saes[READER], "as_trained", n=256)


def asked(what: str, *given: str) -> tuple[str, list[dict[str, str]], Path]:
    """What is printed, the table, and the page."""
    run = Path("runs/small")
    before = set((run / "analysis").rglob("*.csv"))
    result = CliRunner().invoke(app, ["--quiet", "analyze", str(run / ABLATED), what, *given], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    [table] = set((run / "analysis").rglob("*.csv")) - before
    return (
        result.output,
        list(csv.DictReader(table.read_text(encoding="utf-8").splitlines())),
        table.with_suffix(".html"),
    )


def test_effects_on_latents(found: MeasuredEffects, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ablation, "load_model", None)
        said, rows, page = asked("ablate", "--other", READER)
    assert said.startswith(f"What ablated latents of {ABLATED} change in {READER}\n")
    table = {(int(row["latent"]), int(row["reader"])): float(row["effect"]) for row in rows}
    expected = {}
    for one in found.latents:
        mine = np.flatnonzero(found.ablator == one.latent)[:20]
        expected |= {(one.latent, int(found.reader[place])): found.effect[place] for place in mine}
    assert table == pytest.approx(expected, rel=1e-5)
    sizes = [abs(float(row["effect"])) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    active = {one.latent: (one.active_rows, one.n_sequences) for one in found.latents}
    assert all((int(row["active_rows"]), int(row["sequences"])) == active[int(row["latent"])] for row in rows)
    html = Page(page)
    assert f"Each of {len(found.latents)} latents was set to 0 by itself" in html.text
    _, large, _ = asked("ablate", "--other", READER, "--least", str(sizes[5]))
    assert 5 <= len(large) <= 7


def test_effects_on_words(found: MeasuredEffects) -> None:
    latent = found.latents[0].latent
    _, rows, page = asked("ablate", "--latent", str(latent))
    assert {int(row["latent"]) for row in rows} == {latent}
    assert len({row["token_id"] for row in rows}) == len(rows) == 300, "every word of the vocabulary"
    assert sum(float(row["effect"]) for row in rows) == pytest.approx(0, abs=1e-4), "probabilities sum to one"
    assert len({row["kl"] for row in rows}) == 1
    assert float(rows[0]["kl"]) > 0
    assert f"Latent {latent} was set to 0" in Page(page).text
    _, many, _ = asked("ablate", "--n", "5")
    assert len({row["latent"] for row in many}) == 5
    assert len(many) == 5 * 20
    mine = {row["token_id"]: row["effect"] for row in rows}
    same = [row for row in many if int(row["latent"]) == latent]
    assert [float(mine[row["token_id"]]) for row in same] == pytest.approx(
        [float(row["effect"]) for row in same], rel=1e-3, abs=1e-7
    )


def test_words_that_do_not_occur_in_the_store_have_their_text_where_it_keeps_the_vocabulary(asked_run: Path) -> None:
    coded = open_coded(asked_run)
    absent, known = 59, int(coded.text.tokens.ids[-1])
    assert absent > known, "the control: the store holds no such row"
    sae = next(iter(coded.saes.values()))
    asked_of = Asked(coded, sae, None, 0, 1, 0.0, None, "as_trained", "")
    assert _text_of(asked_of, absent) == " v59"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of_ablations, "kept_head", lambda sae: None)
        assert _text_of(asked_of, absent) == "[59]"
        assert _text_of(asked_of, known) != f"[{known}]"


def test_a_latent_that_is_silent_there_changes_nothing(made: TrainConfig, found: MeasuredEffects) -> None:
    sae = ablated_run.opened(made).saes[ABLATED]
    first, _ = sae.stores.stores[0].plan.splits["heldout"]
    kept_N = sae.kept()
    silent = next(
        latent
        for latent in range(sae.d_sae)
        if not any(row >= first and kept_N[row] for row in sae.codes.rows_of(latent)[0])
    )
    _, rows, page = asked("ablate", "--other", READER, "--latent", str(silent))
    assert rows == []
    assert f"Latent {silent} is active on none of" in Page(page).text


def test_four_tuples_of_measured_effects(found: MeasuredEffects) -> None:
    least = float(np.quantile(np.abs(found.effect), 0.7))
    effect = np.zeros((64, 64))
    effect[found.ablator, found.reader] = found.effect
    expected = {
        (a, b, c, d)
        for a, c in itertools.permutations(range(64), 2)
        for b in np.flatnonzero((effect[a] > least) & (effect[c] > least)).tolist()
        for d in np.flatnonzero((effect[a] > least) & (effect[c] < -least)).tolist()
    }
    _, rows, _ = asked("ablate_tuples", "--other", READER, "--least", str(least))
    table = {tuple(int(row[letter]) for letter in "abcd") for row in rows}
    assert len(expected) > 10
    assert len(table) == len(rows) == min(1000, len(expected))
    assert table <= expected
