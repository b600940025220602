"""The section about absorption: every number of the records, reasons where there is none, and nothing where it was
not measured.
"""

from pathlib import Path

import pytest

from strata_sae.pipeline.evaluation.absorption.absorption import measure_absorption
from strata_sae.pipeline.reading import first_letters
from strata_sae.pipeline.report.absorption_section import absorption_section
from strata_sae.pipeline.report.run_data import Run, read_run
from strata_sae.pipeline.report.sections import Section
from support.planted_absorption import absorption_run
from support.sealing import edit, load


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(first_letters, "check_same_model", lambda labelled, store: None)
    config = absorption_run(tmp_path)
    measure_absorption(config)
    return tmp_path / "runs" / "run"


def section_of(run: Run) -> Section:
    section = absorption_section(run)
    assert section is not None
    return section


def test_both_kinds_of_probes_and_every_letter_are_shown(measured: Path):
    section = section_of(read_run(measured))
    table, letters = section.tables
    assert [(row[0], row[2]) for row in table.rows] == [
        (name, kind) for name in ("identity", "topk") for kind in ("own", "compat")
    ]
    assert all(len(row) == len(table.heads) for row in table.rows)
    assert all(len(row) == len(letters.heads) for row in letters.rows)
    record = load(next(measured.glob("variants/topk@*/absorption.json")))
    own = next(row for row in table.rows if row[0] == "topk" and row[2] == "own")
    assert own[3:7] == [
        record["probes"]["own"][form][key] for form in ("fraction", "full") for key in ("mean", "standard_deviation")
    ]
    kept = [letter for seed in record["probes"]["own"]["seeds"] for letter in seed["letters"]]
    assert sum(row[5] for row in letters.rows if row[0] == "topk") == sum(letter["n_words"] for letter in kept)
    assert [trace["variant"] for trace in section.figures[0].traces] == ["identity", "topk"]


def test_a_record_of_other_weights_is_not_shown(measured: Path):
    path = next(measured.glob("variants/topk@*/absorption.json"))
    edit(path, lambda data: data.update(weights_sha256="0" * 64))
    run = read_run(measured)
    section = section_of(run)
    assert {row[0] for row in section.tables[0].rows} == {"identity"}
    assert any("absorption.json" in line for line in run.missing)


def test_a_run_without_absorption_has_no_section(measured: Path):
    for path in measured.glob("variants/*/absorption.json"):
        path.unlink()
    assert absorption_section(read_run(measured)) is None


def test_seeds_without_a_number_are_said(measured: Path):
    path = next(measured.glob("variants/topk@*/absorption.json"))

    def fewer(data: dict) -> None:
        data["probes"]["own"]["fraction"].update(n_seeds=3, n_undefined=2)

    assert not any(
        "some seeds give no number" in note and "own" in note for note in section_of(read_run(measured)).notes
    )
    edit(path, fewer)
    notes = section_of(read_run(measured)).notes
    assert any("With own probes" in note and "(2 of 5)" in note for note in notes)
