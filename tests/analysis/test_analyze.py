"""Every question of `strata analyze`: a table that brute force confirms, a page of its own, the same bytes twice."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from strata_sae.pipeline.analysis.answer import Answer, Column
from strata_sae.pipeline.analysis.questions import ANALYSES
from strata_sae.pipeline.analysis.writing import printed, table
from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.queries.opened import open_coded
from support.coded_run import SITE
from support.page_parser import Page

TOPK, WIDE = f"topk@{SITE}", f"wide@{SITE}"
GIVEN: dict[str, list[str]] = {
    "examples": ["--latent", "3", "--n", "4"],
    "cofiring": ["--least", "2"],
    "pairs": ["--least", "0.4", "--most", "50"],
    "cliques": ["--least", "0.3"],
    "group": ["--latent", "3", "--least", "0.1"],
    "clusters": ["--least", "0.2"],
    "matches": ["--other", "wide"],
    "splits": ["--other", WIDE],
    "absorptions": ["--other", "wide"],
    "effects": ["--other", "wide", "--n", "20"],
    "four_tuples": ["--other", "wide", "--least", "0.4"],
    "histograms": ["--rows", "all"],
    "labels": [],
    "search": ["--text", " w7"],
    "pursuit": ["--n", "100"],
    "logits": ["--latent", "3"],
}


def ask(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["--quiet", "analyze", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def asked(run: Path, what: str, *given: str) -> list[dict[str, str]]:
    """The table that a question writes into its run."""
    before = set((run / "analysis").rglob("*.csv"))
    ask(run / TOPK, what, *given)
    [made] = set((run / "analysis").rglob("*.csv")) - before
    return list(csv.DictReader(made.read_text(encoding="utf-8").splitlines()))


def dense(run: Path, name: str, population: Any = "as_trained") -> np.ndarray:
    """Whether each latent is active on each row of a population: bool [N, E]."""
    sae = open_coded(run).saes[name]
    active_NE = np.zeros((len(sae.kept(population)), sae.d_sae), bool)
    for latent in range(sae.d_sae):
        active_NE[sae.codes.rows_of(latent)[0], latent] = True
    return active_NE[sae.kept(population)]


def test_every_question_has_a_case() -> None:
    with_the_model = {name for name, question in ANALYSES.items() if question.needs_model}
    assert set(GIVEN) == set(ANALYSES) - with_the_model
    assert with_the_model == {"ablate", "ablate_tuples", "steer"}, "test_ablate.py and test_steering.py ask them"


@pytest.mark.parametrize("what", GIVEN)
def test_a_question_gives_the_same_table_and_page_twice(asked_run: Path, tmp_path: Path, what: str) -> None:
    address = asked_run / TOPK if "sae" in ANALYSES[what].needs else asked_run
    for out in ("first", "second"):
        said = ask(address, what, *GIVEN[what], "--out", tmp_path / out)
        assert said.strip()
    first, second = (sorted((tmp_path / out / what).iterdir()) for out in ("first", "second"))
    assert [path.name for path in first] == [path.name for path in second]
    assert [path.suffix for path in first] == [".csv", ".html"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    rows = list(csv.reader(first[0].read_text(encoding="utf-8").splitlines()))
    assert len(rows) > 1 or what == "absorptions"  # random SAEs need not absorb
    assert all(not cell.startswith(("=", "+", "@", "\t", "\r")) for row in rows for cell in row)
    page = Page(first[1])
    assert page.policy()["default-src"] == "'none'"
    assert not [attributes for _, attributes in page.elements if (attributes.get("src") or "").startswith("http")]
    assert not [text for tag, _, text in page.raw if tag == "script" and text.startswith("alert")]
    assert "\u202e" not in first[1].read_text(encoding="utf-8")


def test_partners_are_those_of_the_dense_product(asked_run: Path) -> None:
    active_NE = dense(asked_run, TOPK).astype(np.int64)
    together_E = active_NE.T @ active_NE[:, 5]
    found = asked(asked_run, "cofiring", "--latent", "5", "--least", "1")
    expected = sorted((e for e in range(48) if e != 5 and together_E[e]), key=lambda e: (-together_E[e], e))
    assert [int(row["partner"]) for row in found] == expected
    assert [int(row["together_rows"]) for row in found] == [together_E[e] for e in expected]
    for row in found:
        own, other = active_NE[:, 5].sum(), active_NE[:, int(row["partner"])].sum()
        assert float(row["jaccard"]) == pytest.approx(
            together_E[int(row["partner"])] / (own + other - int(row["together_rows"])), rel=1e-5
        )
        assert float(row["expected_rows"]) == pytest.approx(own * other / len(active_NE), rel=1e-5)


def test_rows_all_counts_other_rows(asked_run: Path) -> None:
    for population in ("all", "as_trained"):
        found = asked(asked_run, "histograms", "--rows", population, "--n", "48")
        counts_E = dense(asked_run, TOPK, population).sum(axis=0)
        assert {int(row["latent"]): int(row["active_rows"]) for row in found} == dict(enumerate(counts_E.tolist()))
    assert (dense(asked_run, TOPK, "all").sum(axis=0) != dense(asked_run, TOPK).sum(axis=0)).any()


def test_matches_are_the_largest_jaccard(asked_run: Path) -> None:
    mine_NE, other_NE = dense(asked_run, TOPK).astype(int), dense(asked_run, WIDE).astype(int)
    together = mine_NE.T @ other_NE
    jaccard = together / np.maximum(mine_NE.sum(0)[:, None] + other_NE.sum(0)[None] - together, 1)
    for row in asked(asked_run, "matches", "--other", "wide", "--n", "48"):
        latent = int(row["latent"])
        assert int(row["match"]) == jaccard[latent].argmax()
        assert float(row["jaccard"]) == pytest.approx(jaccard[latent].max(), rel=1e-5)


def test_the_address_may_be_a_folder_and_the_other_sae_an_address(asked_run: Path, tmp_path: Path) -> None:
    by_folder = ask(asked_run / "variants" / TOPK, "matches", "--other", asked_run / "wide", "--out", tmp_path)
    assert by_folder == ask(asked_run / "topk", "matches", "--other", "wide", "--out", tmp_path)


def test_without_a_question_all_are_listed(asked_run: Path) -> None:
    listed = ask(asked_run)
    for name, question in ANALYSES.items():
        assert re.search(rf"^{name} +{re.escape(question.asks)}$", listed, re.MULTILINE)


def test_texts_of_strangers_are_shown_as_what_they_are() -> None:
    answer = Answer(
        "t\x1b[31m", "", (Column("a", ""), Column("b", "")), [("=1+1", 0.1234567891), ("\x1b[2J", None)], None
    )
    assert table(answer) == "a,b\n'=1+1,0.123457\n␛[2J,\n"
    assert "\x1b" not in printed(answer)
