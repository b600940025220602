"""What is shared says nothing of whose machine it was; the config itself stays as it can be loaded again."""

from pathlib import Path

import pytest

from strata_sae.pipeline.config import load
from strata_sae.pipeline.pages.text import masked
from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.record_files import read_yaml, write_yaml
from strata_sae.pipeline.strict_yaml import parse, unparse
from support.scored_run import Made

MARKER = "zaphod"
SHARED = ("report.html", "results.csv")


def leaks(run: Path) -> list[str]:
    return [name for name in SHARED if MARKER in (run / name).read_text(encoding="utf-8")]


def personal(config: dict) -> dict:
    """The config with a user's name in every key that may hold a path."""
    config["model"]["path"] = "~zaphod/models/small"
    config["corpus"]["sources"] = [
        {"kind": "text", "paths": ["/home/zaphod", "/Users/zaphod/books/*.txt"], "weight": 1.0},
        {"kind": "jsonl", "path": "file:///home/zaphod/rows.jsonl", "weight": 1.0},
    ]
    config["training"]["shared_windows"] = "/dev/shm/zaphod/windows"
    return config


def test_no_users_name_is_on_a_shared_page(made: Made, run: Path):
    assert MARKER in str(made.config.store.path)
    text, _ = read_yaml(run / "config.yaml")
    write_yaml(run / "config.yaml", unparse(personal(parse(text, "config.yaml")[0])))
    write_report(run)
    assert leaks(run) == []
    assert "store#" in (run / "report.html").read_text(encoding="utf-8")  # shown, without the folders above it
    assert MARKER in (run / "config.yaml").read_text(encoding="utf-8")  # control: it is there to be hidden


@pytest.mark.parametrize("name", ["metrics.json", "weights.safetensors", "curves.jsonl", "config.json"])
def test_nor_in_what_is_said_of_a_damaged_file(run: Path, tmp_path: Path, name: str):
    moved = tmp_path / "home" / MARKER / "run"
    moved.parent.mkdir(parents=True)
    run.rename(moved)
    for folder in RunFolder(moved).trained():
        path = folder.path / name
        if path.exists():
            path.write_bytes(path.read_bytes()[:-9])
    write_report(moved)
    assert name in (moved / "report.html").read_text(encoding="utf-8")
    assert leaks(moved) == []


def test_the_config_of_a_run_loads_again(made: Made, run: Path):
    assert load(run / "config.yaml") == made.config


@pytest.mark.parametrize(
    "kept", ["demo", "data/store", "s3://bucket/store", "~/stores/a", "org/model", "../store", "", "blocks.1.hook"]
)
def test_other_text_is_left_alone(kept: str):
    assert masked({"a": [kept]}) == {"a": [kept]}
