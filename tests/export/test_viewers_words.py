"""Explanations in the files of viewers: beside the token labels, hostile ones as symbols, read back as they were."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.export.exporting import export
from strata_sae.pipeline.export.viewers import circuit_tracer, neuronpedia, parquet
from strata_sae.pipeline.export.viewers.spelling import spelled
from strata_sae.pipeline.interpretation.published import keep_published
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.interpretation_records import PublishedRecord
from strata_sae.pipeline.runs.record_files import read_record
from support.coded_run import RUN
from support.made_up_run import HOSTILE
from support.made_up_words import EXPLAINER, latents, write_published, write_words
from support.sealing import edit
from support.viewed_run import NAME, make, viewed
from support.viewer_schemas import EXPLANATION, Model, wrong

NUMBERS = [1, 5, 8, 40]
TEXTS = ["names of methods", "<script>alert(1)</script>", "a\x00b \u202eturned"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make(folder := tmp_path_factory.mktemp("viewed"))
    return folder


@pytest.fixture
def sae(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an SAE to write into; the run lies in the working folder."""
    shutil.copytree(made / RUN, tmp_path / RUN)
    (tmp_path / "store").symlink_to(made / "store")
    monkeypatch.chdir(tmp_path)
    return RunFolder(RUN).variant(NAME).path


def explain(sae: Path) -> None:
    write_words(sae, latents(NUMBERS, TEXTS), viewed().sae.codes.id)
    write_published(sae, {1: "of others", 40: "of others", 47: HOSTILE[0]})


def explanations(folder: Path) -> list[dict[str, Any]]:
    lines = gzip.decompress((folder / "none/1-res-topk/explanations/batch-0.jsonl.gz").read_bytes()).decode()
    return [json.loads(line) for line in lines.split("\n")[:-1]]


def test_neuronpedias_explanations_have_all_that_is_known(sae: Path, tmp_path: Path) -> None:
    neuronpedia.write(viewed(), tmp_path / "plain")
    explain(sae)
    neuronpedia.write(viewed(), tmp_path / "out")
    rows = explanations(tmp_path / "out")
    assert [row for row in rows if row["typeName"] == "strata_token-set"] == explanations(tmp_path / "plain")
    words = [row for row in rows if row["typeName"] != "strata_token-set"]
    assert [(int(row["index"]), row["description"], row["typeName"], row["explanationModelName"]) for row in words] == [
        (1, TEXTS[0], "strata_interpret", EXPLAINER),
        (1, "of others", "strata_published", "gpt-4o-mini"),
        (5, TEXTS[1], "strata_interpret", EXPLAINER),
        (8, spelled(TEXTS[2]), "strata_interpret", EXPLAINER),
        (40, "of others", "strata_published", "gpt-4o-mini"),
        (47, HOSTILE[0], "strata_published", "gpt-4o-mini"),
    ]
    assert spelled(TEXTS[2]) != TEXTS[2]
    assert [fault for row in rows for fault in wrong(row, EXPLANATION)] == []
    assert len({row["id"] for row in rows}) == len(rows)
    for row in words:
        assert row["notes"].startswith("detection: balanced accuracy 0.") == (row["typeName"] == "strata_interpret")


def test_what_is_exported_can_be_brought_back(sae: Path, tmp_path: Path) -> None:
    explain(sae)
    neuronpedia.write(viewed(), tmp_path / "out")
    other = RunFolder(RUN).variant(NAME)
    other.interpretation.unlink()
    keep_published(other, tmp_path / "out/none/1-res-topk")
    found = read_record(other.published, PublishedRecord).record.explanations
    words = [(one.latent, one.text, one.by) for one in found if "strata_token-set" not in one.by]
    assert words[:2] == [
        (1, TEXTS[0], f"{EXPLAINER} (strata_interpret)"),
        (1, "of others", "gpt-4o-mini (strata_published)"),
    ]
    assert len(words) == 6


def test_parquet_has_columns_of_words(sae: Path, tmp_path: Path) -> None:
    columns = ["explanation", "explained_by", "balanced_accuracy", "lift", "rating"]
    (tmp_path / "plain").mkdir()
    parquet.write(viewed(), tmp_path / "plain")
    empty = pq.read_table(tmp_path / "plain/latents.parquet")
    assert [empty.column(name).null_count for name in columns] == [48] * 5
    explain(sae)
    (tmp_path / "out").mkdir()
    parquet.write(viewed(), tmp_path / "out")
    table = pq.read_table(tmp_path / "out/latents.parquet")
    assert table.schema == empty.schema
    rows = {row["latent"]: [row[name] for name in columns] for row in table.to_pylist()}
    detection = latents(NUMBERS, TEXTS)[0].scores["detection"]
    assert rows[1] == [TEXTS[0], EXPLAINER, *map(pytest.approx, (detection.balanced_accuracy, detection.lift)), 1]
    assert rows[8][0] == spelled(TEXTS[2])
    assert rows[40] == ["of others", "gpt-4o-mini, published", None, None, None]
    assert [latent for latent, row in rows.items() if row[0] is not None] == [1, 5, 8, 40, 47]
    assert table.column("label").to_pylist() == empty.column("label").to_pylist()


def test_circuit_tracer_has_no_place_for_them(sae: Path) -> None:
    seen = viewed()
    before = circuit_tracer.model(seen, seen.latent(1))
    assert Model.model_validate(before)
    explain(sae)
    seen = viewed()
    assert circuit_tracer.model(seen, seen.latent(1)) == before


@pytest.mark.parametrize("format", ["neuronpedia", "parquet"])
def test_words_of_other_codes_stop_an_export(sae: Path, tmp_path: Path, format: str) -> None:
    explain(sae)
    edit(sae / "interpretation.json", {"codes_id": "0" * 64})
    with pytest.raises(CheckpointError, match=r"interpretation.json: codes_id: is 0000.*; delete it and run strata"):
        export(RUN / NAME, format, tmp_path / "out")
    assert not (tmp_path / "out").exists()
