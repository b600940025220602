"""Each command needs some sections of a config, says which one is missing, and does without the others."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config import RunConfig, dump, load
from strata_sae.pipeline.config.run import ExtractConfig, TrainConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.trainer.train import train
from support.extraction import extraction_config
from support.small_run import TOPK, run_data, store_for_training

SECTIONS = {"model": ExtractConfig, "corpus": ExtractConfig, "training": TrainConfig, "variants": TrainConfig}
NEEDS = {
    "plan": ["model", "corpus"],
    "extract": ["model", "corpus"],
    "train": ["training", "variants"],
    "evaluate": ["training", "variants"],
}


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STRATA_DATA", raising=False)
    return tmp_path


def written(data: dict[str, Any], without: list[str]) -> Path:
    path = Path("c.yaml")
    path.write_text(yaml.safe_dump({key: value for key, value in data.items() if key not in without}), encoding="utf-8")
    return path


def strata(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["--quiet", *arguments])


def trained_bytes() -> bytes:
    return next(Path("runs/run/variants").glob("*/weights.safetensors")).read_bytes()


@pytest.mark.parametrize("command", NEEDS)
def test_each_section_that_a_command_needs_is_named_when_it_is_missing(in_folder: Path, command: str) -> None:
    data = run_data(Path("store"), {"topk": TOPK})
    for section in NEEDS[command]:
        result = strata(command, str(written(data, [section])))
        (line,) = result.stderr.splitlines()
        assert result.exit_code == 2
        assert line.startswith(f"c.yaml: {section}: missing; {RunConfig.model_fields[section].description}")
        assert line.endswith("train --dry-run.") == (section in ("model", "corpus")), "what to do with a store instead"
    result = strata(command, str(written(data, NEEDS[command])))
    assert [line.split(": ")[1] for line in result.stderr.splitlines()] == NEEDS[command]
    assert not Path("runs").exists()


@pytest.mark.parametrize("section", SECTIONS)
def test_control_a_config_that_has_the_section_is_one_of_that_class(in_folder: Path, section: str) -> None:
    whole = load(written(run_data(Path("store"), {"topk": TOPK}), []))
    kind = SECTIONS[section]
    assert type(kind.of(whole, "c.yaml")) is kind
    assert kind.of(whole, "c.yaml").model_dump() == whole.model_dump()
    with pytest.raises(ConfigError, match=f"^c.yaml: {section}: missing; "):
        kind.of(load(written(run_data(Path("store"), {"topk": TOPK}), [section])), "c.yaml")


def test_a_store_that_is_there_is_trained_on_judged_and_shown_without_model_and_text(in_folder: Path) -> None:
    store_for_training(Path("store"))
    data = run_data(Path("store"), {"topk": TOPK}, n_steps=6)
    train(load(written(data, [])), show_progress=False)
    with_both = trained_bytes()
    path = written(data, ["model", "corpus"])
    Path("runs").rename("before")
    for command in ("train", "evaluate", "report"):
        result = strata(command, str(path))
        assert result.exit_code == 0, result.stderr
    assert trained_bytes() == with_both
    assert "topk" in Path("runs/run/report.html").read_text(encoding="utf-8")
    assert load(RunFolder(Path("runs/run")).config) == load(path)
    assert strata("report", str(written(data, list(SECTIONS)))).exit_code == 0


def test_run_goes_through_the_other_stages_where_the_store_is_there(in_folder: Path) -> None:
    store_for_training(Path("data/run"))
    data = run_data(Path("data/run"), {"topk": TOPK}, n_steps=6)
    del data["store"]["path"]
    result = strata("run", str(written(data, ["model", "corpus"])))
    assert result.exit_code == 0, result.stderr
    assert Path("runs/run/report.html").is_file()
    result = strata("run", str(written(data, ["corpus"])))
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "c.yaml: corpus: missing; " in result.stderr


@pytest.mark.parametrize("store", ["nowhere", None])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])
def test_where_no_store_is_the_error_says_what_is_missing(in_folder: Path, store: str | None, beside: bool) -> None:
    data = run_data(Path("data/nowhere"), {"topk": TOPK})
    data["store"]["path"] = None if store is None else f"data/{store}"
    if beside:
        store_for_training(Path("data/other"))
    result = strata("train", str(written(data, ["model", "corpus"])))
    assert result.exit_code == 2
    where = "there is none beside it" if not beside else "beside it: data/other"
    assert result.stderr == (
        f"store.path: there is no store at data/{store or 'run'}, and the config has no model and corpus to make one "
        f"of; set store.path to one that is there ({where}), or add model and corpus\n"
    )


def test_a_plan_needs_no_training_and_no_variants(in_folder: Path) -> None:
    whole = extraction_config(in_folder)
    path = Path("whole.yaml")
    path.write_text(dump(whole), encoding="utf-8")
    told = strata("plan", str(path)).stdout
    data = yaml.safe_load(dump(whole))
    bare = strata("plan", str(written(data, ["training", "variants"])))
    assert bare.exit_code == 0, bare.stderr
    assert re.search(r"^mixing ", told, flags=re.MULTILINE)
    changing = ("mixing", "time")  # of the training section, and of this machine
    lines = ([line for line in text.splitlines() if not line.startswith(changing)] for text in (bare.stdout, told))
    assert next(lines) == next(lines)
    assert "mixing" not in bare.stdout
    assert strata("extract", str(written(data, ["training", "variants"]))).exit_code == 0
    assert strata("extract", str(path)).exit_code == 0, "the same store, with or without those sections"
