"""Everything after training takes an imported SAE like any other: scores, comparisons, the page, the lists."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config import dump
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.evaluation.evaluate import scores_of
from strata_sae.pipeline.report.comparison_page import write_comparison
from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.runs.comparison_records import Comparisons, Stability
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.record_files import read_record
from support.fake_format import FILES
from support.imported_run import IMPORTED, OUT, TRAINED, TRANSCODER, config_of, folder_of, said_by, their
from support.made_up_run import HOSTILE
from support.page_parser import Page
from support.small_run import SITE, TOPK

RUN = Path("runs/run")


def judged(variants: dict[str, Any], **sections: Any) -> TrainConfig:
    """What `strata run` does after the store is there, but for the page."""
    config = config_of(variants, **sections)
    stages.train_saes(config)
    stages.judge_saes(config)
    return config


def rewritten(name: str, change: Any) -> None:
    """The tensors of a folder of `theirs/`, changed."""
    path = Path("theirs") / name / FILES[1]
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)


def test_a_copy_of_a_trained_sae_has_its_scores_to_the_bit(here: Path):
    judged(TRAINED | IMPORTED)
    scores = scores_of(RunFolder(RUN))
    for name in TRAINED:
        assert scores[f"their-{name}@{SITE}"] == scores[f"{name}@{SITE}"]
        for file in ("metrics.json", "per_document.json", "examples.json"):
            ours, theirs = (said_by(folder_of(one).path / file) for one in (name, f"their-{name}"))
            assert theirs == ours
        features = [safetensors.torch.load_file(folder_of(one).features) for one in (name, f"their-{name}")]
        assert features[0].keys() == features[1].keys()
        assert all(torch.equal(tensor, features[1][key]) for key, tensor in features[0].items())


def test_another_sae_has_other_scores(here: Path):
    """Control: one number of the weights makes a difference."""
    rewritten("relu", lambda tensors: tensors["b_enc"].add_(1e-3))
    judged(TRAINED | IMPORTED)
    scores = scores_of(RunFolder(RUN))
    assert scores[f"their-relu@{SITE}"] != scores[f"relu@{SITE}"]


def test_an_imported_sae_is_no_seed_of_anything(here: Path):
    """Not of what was trained with the same settings, nor of a second import of the same files."""
    variants = {**TRAINED, "again": {**TOPK, "seed": 7}, **IMPORTED, "twice": their("topk")}
    judged(variants)
    tables = read_record(RunFolder(RUN).comparisons, Comparisons).record.tables
    recipes = {recipe.name: recipe.variants for recipe in tables[0].recipes}
    assert recipes == {
        "topk": ["topk", "again"],
        "relu": ["relu"],
        "their-topk": ["their-topk"],
        "their-relu": ["their-relu"],
        "twice": ["twice"],
    }
    pairs = {(pair.first, pair.second): pair.verdict for pair in tables[0].pairs}
    assert pairs["their-topk", "twice"] == "equal"
    stability = read_record(RunFolder(RUN).stability, Stability).record
    assert [recipe.variants for recipe in stability.recipes] == [["topk", "again"]]


def test_imports_alone_are_a_run(here: Path, caplog: pytest.LogCaptureFixture):
    config = config_of(IMPORTED | {TRANSCODER: their(TRANSCODER)}, name="alone")
    stages.run_stages(config, None)
    scores = scores_of(RunFolder(Path("runs/alone")))
    assert scores.keys() == {f"their-topk@{SITE}", f"their-relu@{SITE}", f"{TRANSCODER}@{SITE}-to-{OUT}"}
    assert scores[f"their-topk@{SITE}"] == scores_of(RunFolder(RUN))[f"topk@{SITE}"]
    page = Page(Path("runs/alone/report.html")).text
    assert "Three published sparse coders were imported from files of fake, and not trained here." in page
    assert "Every SAE of this run was imported, so nothing was logged." in page
    assert "then trained" not in page
    assert "not there" not in page
    assert "Training dynamics of one SAE" not in page


def test_at_a_site_where_nothing_is_trained(here: Path):
    """Any site of the store will do, whatever training.sites says."""
    said = {"sae": {"architecture": "relu", "d_sae": 32}, "site": OUT}
    tensors = safetensors.torch.load_file(Path("theirs") / TRANSCODER / FILES[1])
    tensors["W_enc"] = tensors["W_dec"].clone()
    Path("theirs/out").mkdir()
    safetensors.torch.save_file(tensors, Path("theirs/out") / FILES[1])
    (Path("theirs/out") / FILES[0]).write_text(json.dumps(said))
    judged(TRAINED | {"out": their("out")})
    assert folder_of("out", OUT).metrics.exists()
    assert write_report(RUN).exists()


def test_what_the_page_says_of_it(here: Path):
    judged(TRAINED | IMPORTED)
    page = Page(write_report(RUN)).text
    assert "Two sparse autoencoders were then trained at one site" in page
    assert "Two published sparse coders were imported from files of fake, and not trained here." in page
    assert "imported from fake, theirs/topk, sha256 fake.json" in page
    assert "that were not used in training here" in page
    assert "What was imported has no curves." in page
    for wrong in ("trained on 0 rows", "training.rows 0", "0 of 4 finished"):
        assert wrong not in page
    with (RUN / "results.csv").open() as file:
        lines = {line["variant"]: line for line in csv.DictReader(file)}
    assert (lines["their-topk"]["status"], lines["their-topk"]["steps"]) == ("imported", "")
    assert (lines["topk"]["status"], lines["topk"]["steps"]) == ("finished", "20")


def test_what_strangers_say_is_only_text(here: Path):
    def shape(folder: str, words: list[str]) -> list[tuple[str, list[str]]]:
        shutil.copytree("theirs/topk", f"theirs/{folder}")
        said = Path(f"theirs/{folder}") / FILES[0]
        facts = {f"{number:03d}{word}": word for number, word in enumerate(words)} | {
            "list": words,
            "more": {"of": words},
        }
        said.write_text(json.dumps(json.loads(said.read_text()) | {"facts": facts}))
        stages.train_saes(config_of(TRAINED | {"x": their(folder)}))
        found = [(tag, sorted(attrs)) for tag, attrs in Page(write_report(RUN)).elements]
        shutil.rmtree(folder_of("x").path)
        return found

    assert shape("<img src=x onerror=alert(1)>", HOSTILE) == shape("harmless", ["words"] * len(HOSTILE))


def test_a_target_l0_marks_imported_ones_of_a_kind(here: Path):
    variants = {**TRAINED, "sparse": their("topk", kind="theirs"), "dense": their("relu", kind="theirs")}
    judged(variants, evaluation={"target_l0": 4})
    write_report(RUN)
    with (RUN / "results.csv").open() as file:
        marks = {line["variant"]: line["nearest target L0"] for line in csv.DictReader(file)}
    assert (marks["sparse"], marks["dense"]) == ("4.0", "")
    tables = read_record(RunFolder(RUN).comparisons, Comparisons).record.tables
    matched = {recipe.name: recipe.is_at_target for recipe in tables[0].recipes}
    assert matched["sparse"] == matched["topk"] is True


def test_two_runs_side_by_side(here: Path):
    stages.run_stages(config_of(IMPORTED, name="alone"), None)
    page = write_comparison([RUN, Path("runs/alone")])
    with page.with_suffix(".csv").open() as file:
        lines = {line["variant"]: line for line in csv.DictReader(file)}
    assert (lines["their-topk"]["status"], lines["their-topk"]["steps"]) == ("imported", "")
    assert "At each site all scores were measured on equal rows." in Page(page).text


def command(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_commands(here: Path):
    Path("c.yaml").write_text(dump(config_of(TRAINED | IMPORTED)))
    dry = command("train", "c.yaml", "--dry-run", "--only", "their-*")
    assert f"their-topk@{SITE}: would be imported: topk, 64 latents, from fake files in theirs/topk" in dry
    assert "0 of 0 SAEs are left to train" in dry
    assert not folder_of("their-topk").path.exists()
    command("train", "c.yaml", "--only", "their-topk")
    assert folder_of("their-topk").training.exists()
    assert not folder_of("their-relu").path.exists()
    command("evaluate", "c.yaml")
    assert folder_of("their-topk").metrics.exists()
    assert "3 of 3" in command("runs", "list") or "run" in command("runs", "list")
    command("runs", "delete", "runs/run", f"their-topk@{SITE}", "--yes")
    assert not folder_of("their-topk").path.exists()
    assert folder_of("topk").training.exists()
