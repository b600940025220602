"""The statement ranks at matched L0 only, and names a winner only where comparisons.json shows one."""

from pathlib import Path
from typing import Any

import pytest

from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.report.ranking import ahead, ranking
from strata_sae.pipeline.report.run_data import read_run
from strata_sae.pipeline.runs.comparison_records import Verdict
from support.made_up_comparisons import SITE, write_comparisons
from support.page_parser import Page
from support.sealing import edit

THREE = ["topk", "topk-orthogonal", "batch-topk"]
WINS: dict[tuple[str, str], Verdict] = {("topk", "batch-topk"): "second", ("topk-orthogonal", "batch-topk"): "second"}


def told(run: Path) -> str:
    return " ".join(ranking(read_run(run)))


@pytest.mark.parametrize(
    ("verdicts", "usual", "n_seeds", "said"),
    [
        (
            WINS,
            "not_shown",
            1,
            f"At {SITE}, L0 32.0 to 32.4: batch-topk has a higher R² (0.8820) than each of the 2 others, "
            "by more than noise (one seed).",
        ),
        (
            WINS | {("topk", "topk-orthogonal"): "first"},
            "not_shown",
            3,
            f"At {SITE}, L0 32.0 to 32.4: batch-topk has a higher R² (0.8820) than each of the 2 others, "
            "by more than noise.",
        ),
        (
            {("topk-orthogonal", "batch-topk"): "second"},
            "not_shown",
            2,
            f"At {SITE}, L0 32.0 to 32.4: no SAE is shown to have a higher R² than batch-topk and topk (two seeds).",
        ),
        ({}, "not_shown", 3, f"At {SITE}, L0 32.0 to 32.4: no difference in R² between 3 SAEs is more than noise."),
        ({}, "equal", 3, f"At {SITE}, L0 32.0 to 32.4: 3 SAEs are equal."),
        ({}, "no_interval", 1, f"At {SITE}, L0 32.0 to 32.4: 3 SAEs cannot be ranked, since the noise is not known."),
        ({}, "not_matched", 1, "No two SAEs at one site have matched L0, so none is ranked."),
        (
            {("topk", "topk-orthogonal"): "first"},
            "not_matched",
            1,
            f"At {SITE}, L0 32.0: topk has a higher R² (0.8710) than the other one, by more than noise (one seed).",
        ),
    ],
)
def test_what_is_said_is_what_the_record_shows(
    run_folder: Path, verdicts: dict[tuple[str, str], Verdict], usual: Verdict, n_seeds: int, said: str
) -> None:
    write_comparisons(run_folder, THREE, verdicts, usual=usual, n_seeds=n_seeds)
    assert told(run_folder) == said
    assert said in Page(write_report(run_folder)).text


def test_no_winner_is_named_where_no_difference_is_shown(run_folder: Path) -> None:
    """The control is the first case above: the same numbers, and a record that shows the difference."""
    write_comparisons(run_folder, THREE, {}, usual="not_shown")
    statement = Page(write_report(run_folder)).text.split("held-out rows scored")[0]
    assert "higher R²" not in statement
    assert ahead(read_run(run_folder), SITE) == ["batch-topk", "topk", "topk-orthogonal"]


def test_a_record_of_other_scores_ranks_nothing_and_is_named(run_folder: Path) -> None:
    write_comparisons(run_folder, THREE, WINS, usual="not_shown")

    def other(record: dict[str, Any]) -> None:
        record["tables"][0]["saes"][0]["fingerprint"] = "0" * 64

    edit(run_folder / "comparisons.json", other)
    page = Page(write_report(run_folder)).text
    assert "compared by other scores than are there" in page
    assert "Which differences are more than noise was not measured, so none is ranked." in page
