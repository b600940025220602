"""The section on matched L0, of records with made-up trials."""

from pathlib import Path
from typing import Any

import pytest

from strata_sae.pipeline.report.matching_section import matching_section
from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.report.run_data import read_run
from strata_sae.pipeline.runs.chain import read_config, read_training
from strata_sae.pipeline.runs.evaluation_records import FilterPart
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.match_records import MatchRecord, TrialPart
from strata_sae.pipeline.runs.record_files import write_record
from support.made_up_run import SITES, STORE_ID

SITE = next(iter(SITES))
FILTERS = FilterPart(drop_bos=True, drop_special=True, drop_template=False, max_norm_multiple=3.0)


def searched(run: Path, variant: str, l0: list[float | None], outcome: str, **changed: Any) -> None:
    """A match.json of one SAE; the last trial is the one that was taken, if one was."""
    folder = RunFolder(run).variant(f"{variant}@{SITE}")
    sae, weights = "5a" * 32, "e0" * 32
    if folder.config.exists():
        config = read_config(folder).record
        sae, weights = config.fingerprint, read_training(folder, config).record.sha256.weights
    trials = [TrialPart(knob=0.1 * n, l0=found, sae=sae, weights_sha256=weights) for n, found in enumerate(l0, 1)]
    record = MatchRecord.model_validate(
        {
            "variant": variant,
            "site": SITE,
            "l0": 32.0,
            "tolerance": 0.02,
            "knob": "objective.l1.weight",
            "store_id": STORE_ID,
            "filters": FILTERS,
            "max_rows": None,
            "n_rows": 15_072,
            "n_documents": 13,
            "trials": trials,
            "outcome": outcome,
            "accepted": len(l0) if outcome in ("matched", "nearest") else None,
            "reason": "not reached in 6 trainings" if outcome == "failed" else None,
            **changed,
        }
    )
    write_record(folder.match, record)


def test_a_run_without_matched_saes_has_no_section(run_folder: Path) -> None:
    assert matching_section(read_run(run_folder)) is None


def test_the_trail_of_each_sae_is_told(run_folder: Path) -> None:
    searched(run_folder, "relu-l1", [45.67, 17.61, 32.22], "matched")
    searched(run_folder, "topk", [30.0, 33.0], "nearest", knob="sae.k")
    searched(run_folder, "hopeless", [64.0, None], "failed")
    section = matching_section(read_run(run_folder))
    assert section is not None
    outcomes, trials = section.tables
    assert [row[:6] for row in outcomes.rows] == [
        ["relu-l1", SITE, "matched", "objective.l1.weight", pytest.approx(0.3), 32.22],
        ["topk", SITE, "nearest", "sae.k", 0.2, 33.0],
        ["hopeless", SITE, "failed", "objective.l1.weight", None, None],
    ]
    assert outcomes.rows[0][6:] == [32.0, pytest.approx(0.6875), 2.0, 3, 15_072, 13]
    assert [(row[2], row[4], row[6]) for row in trials.rows if row[0] == "relu-l1"] == [
        (1, 45.67, "no"), (2, 17.61, "no"), (3, 32.22, "yes"),
    ]  # fmt: skip
    assert [row[4:] for row in trials.rows if row[0] == "hopeless"] == [[64.0, 100.0, "no"], [None, None, "no"]]
    assert all(len(row) == len(table.heads) for table in section.tables for row in table.rows)
    assert section.figures[0].traces[0]["y"] == [pytest.approx(found / 32) for found in (45.67, 17.61, 32.22)]
    assert section.notes == [
        f"topk at {SITE}: no value of sae.k gives L0 32; the nearest was taken.",
        f"hopeless at {SITE}: L0 32 was not matched: not reached in 6 trainings. There is no SAE of it.",
    ]


def test_a_search_that_is_not_of_this_sae_is_not_shown(run_folder: Path) -> None:
    searched(run_folder, "relu-l1", [32.0], "matched", store_id="00" * 32)
    run = read_run(run_folder)
    assert matching_section(run) is None, "and why is said"
    assert any("match.json: store_id: is 0000000000000000" in line for line in run.missing)


def test_a_failed_search_is_no_missing_file(run_folder: Path) -> None:
    before = read_run(run_folder).missing
    searched(run_folder, "hopeless", [64.0], "failed")
    assert read_run(run_folder).missing == before
    assert "hopeless" in write_report(run_folder).read_text(encoding="utf-8")
