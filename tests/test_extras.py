"""What the core does without its extras: it says which one a config needs, before anything is trained."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.config.run import RunConfig, TrainConfig
from strata_sae.pipeline.errors import ConfigError
from support.small_run import ALL, run_data, store_for_training

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = sorted(set(PROJECT["optional-dependencies"]) - {"dev"})


@pytest.mark.parametrize("key", ["probing", "absorption"])
def test_a_part_that_needs_an_extra_is_refused_before_anything_else(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = run_data(store_for_training(tmp_path / "store"), ALL) | {"evaluation": {key: {}}}
    config = TrainConfig.of(RunConfig.model_validate(data), "run.yaml")
    stages.refuse_what_is_not_installed(config)
    found = importlib.util.find_spec
    monkeypatch.setattr(stages, "find_spec", lambda name: None if name == "sklearn" else found(name))
    with pytest.raises(ConfigError, match=re.escape(f"evaluation.{key}: needs scikit-learn: pip install 'strata-sae[")):
        stages.run_stages(config, None)
    assert not (tmp_path / "runs").exists()


def test_every_extra_stands_on_the_page_with_its_size() -> None:
    page = (ROOT / "docs/installing.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (?:`\[)?([\w ]+?)(?:\]`)? \| ([\d,]+) MB \|", page, flags=re.MULTILINE))
    assert sorted(rows.keys() - {"torch and what it requires", "the core beside torch"}) == EXTRAS
    assert int(rows["the core beside torch"]) <= 450


def test_what_developers_install_and_the_lowest_versions_hold_every_extra() -> None:
    (together,) = (wanted for wanted in PROJECT["optional-dependencies"]["dev"] if wanted.startswith("strata-sae["))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lowest = re.findall(r"--extra (\w+)", makefile.split("\n.venv-lowest/installed:")[1].split("\n\n")[0])
    assert sorted(lowest) == EXTRAS
    of_demo = re.findall(r"\w+", PROJECT["optional-dependencies"]["demo"][0])[2:]
    assert {*re.findall(r"\w+", together)[2:], *of_demo} == set(EXTRAS)
