"""docs/scale.md: what it names exists, its example is a config, and its commands are such."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.commands.slurm import GRACE_SECONDS
from strata_sae.pipeline.config import RunConfig, load
from strata_sae.stores.files.beats import BEAT_SECONDS, STILL_SECONDS
from support.page_names import unknown

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_what_it_names_exists() -> None:
    assert unknown(PAGE) == []


def test_its_example_is_a_config(tmp_path: Path) -> None:
    (example,) = (text for kind, text in BLOCKS if kind == "yaml")
    (tmp_path / "a.yaml").write_text(f"name: a\nstore: {{sites: [b]}}\n{example}", encoding="utf-8")
    engine = load(tmp_path / "a.yaml").engine
    assert (engine.kind, engine.workers) == ("slurm", 64)


@pytest.mark.parametrize("engine", re.findall(r"`engine: (\{[^`]*\})`", PAGE))
def test_its_engines_are_settings(engine: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"name: a\nstore: {{sites: [b]}}\nengine: {engine}\n", encoding="utf-8")
    assert isinstance(load(tmp_path / "a.yaml"), RunConfig)


def test_its_commands_exist() -> None:
    lines = [line for kind, text in BLOCKS if not kind for line in text.splitlines()]
    ours = [line.partition("strata ")[2].split() for line in lines if "strata " in line]
    assert len(ours) == 6
    for command, *rest in ours:
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0
        assert all(word in result.stdout for word in rest if word.startswith("--"))
        assert all((ROOT / word).is_file() for word in rest if word.startswith("configs/"))


def test_its_times_are_those_of_the_code() -> None:
    assert f"{GRACE_SECONDS} seconds before it SLURM sends USR1" in WORDS
    assert f"every {BEAT_SECONDS:.0f} seconds" in WORDS
    assert f"for {STILL_SECONDS:.0f} seconds counts as dead" in WORDS
