"""The section about probes: AUCs and tasks of each site in two tables; a record of other weights is not shown."""

import json
from pathlib import Path

import numpy as np
import pytest

from strata_sae.pipeline.evaluation.probing.probing import probe_saes
from strata_sae.pipeline.reading import probing_texts
from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.report.probing_section import probing_section
from strata_sae.pipeline.report.run_data import read_run
from support.evaluation_folder import SITE
from support.probed_run import TASK, probed_run, with_labelled

RUN = Path("runs/run")


@pytest.fixture(autouse=True)
def probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probing_texts, "check_same_model", lambda labelled, store: None)
    config = probed_run(tmp_path, token_tasks=["first_letter_s", "first_letter_z"])
    with_labelled(config, np.tile([0, 1], 120).astype(np.int8))
    probe_saes(config)


def test_every_sae_and_task_has_its_mean_and_spread():
    found = probing_section(read_run(RUN))
    assert found is not None
    aucs, tasks = found.tables
    assert [head for head, _ in aucs.heads] == ["task", "k", "identity", "topk", "raw rows"]
    assert [(row[0], row[1]) for row in aucs.rows] == [
        (TASK, 1),
        (TASK, 16),
        ("first_letter_s", 1),
        ("first_letter_s", 16),
    ]
    record = json.loads((RUN / f"variants/topk@{SITE}/probing.json").read_text(encoding="utf-8"))
    expected = record["probed"][0]["probes"][1]["scores"]["auc"]
    assert aucs.rows[1][3] == f"{expected['mean']:.3f} ± {expected['standard_deviation']:.3f}"
    assert tasks.rows[0] == [TASK, "last token of a text", 120, 120, 240, 160, 80]
    assert "5 draws" in found.lede
    (note,) = found.notes
    assert note.startswith(f"{SITE}: left out: first_letter_z: too few rows")


def test_the_page_shows_it_and_says_what_does_not_belong():
    text = write_report(RUN, "run").read_text(encoding="utf-8")
    assert "first_letter_s" in text
    path = RUN / f"variants/topk@{SITE}/probing.json"
    path.write_bytes((RUN / f"variants/identity@{SITE}/probing.json").read_bytes())
    found = probing_section(run := read_run(RUN))
    assert found is not None
    assert [head for head, _ in found.tables[0].heads] == ["task", "k", "identity", "raw rows"]
    for name in ("identity", "topk"):
        (RUN / f"variants/{name}@{SITE}/probing.json").unlink()
    assert probing_section(read_run(RUN)) is None
    assert run.sites
