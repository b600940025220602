"""S5, S6: a config runs no code and loads none from elsewhere; what plain YAML and other defaults would do."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.pipeline.strict_yaml import parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def bomb(levels: int) -> str:
    """Lists of ten aliases each: 10**levels items."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines)


def test_a_yaml_bomb_is_refused_before_it_goes_off() -> None:
    """It would be a thousand million items: a parser that builds them never gets to an error."""
    with pytest.raises(ConfigError, match="anchors"):
        parse(bomb(9), "a.yaml")


def test_plain_yaml_loads_the_bomb_and_runs_code(tmp_path: Path) -> None:
    loaded = yaml.safe_load(bomb(5))
    assert len(repr(loaded["a4"])) > 100_000, "a few hundred bytes, and ten times as much for every line"
    canary = tmp_path / "canary"
    text = f"a: !!python/object/apply:os.mkdir ['{canary}']"
    with pytest.raises(ConfigError, match="tags"):
        parse(text, "a.yaml")
    assert not canary.exists()
    yaml.unsafe_load(text)  # the control
    assert canary.exists()


def test_remote_code_is_off_by_default() -> None:
    assert ModelSettings(path="a/b").trust_remote_code is False


@pytest.mark.parametrize(
    "revision", [None, "main", "v1.0", COMMIT[:-1], COMMIT + "0", COMMIT.upper(), COMMIT[:-1] + "\n"]
)
def test_remote_code_needs_a_commit(revision: str | None) -> None:
    with pytest.raises(ValidationError, match="trust_remote_code needs revision to be a 40-hex commit"):
        ModelSettings(path="a/b", revision=revision, trust_remote_code=True)


def test_remote_code_of_a_commit_is_allowed_and_recorded() -> None:
    settings = ModelSettings(path="a/b", revision=COMMIT, trust_remote_code=True)
    assert settings.model_dump()["trust_remote_code"] is True


@pytest.mark.parametrize("kind", ["dataset", "parquet", "jsonl", "text"])
def test_corpora_run_no_code_at_all(kind: str) -> None:
    source: dict[str, Any] = {"kind": kind, "path" if kind == "dataset" else "paths": "a/b", "trust_remote_code": True}
    config = {"corpus": {"sources": [source], "n_tokens": 10}}
    with pytest.raises(ValidationError, match="trust_remote_code"):
        RunConfig.model_validate(config)
