"""docs/notebook.md runs, block after block, as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

import strata_sae as strata
from strata_sae.pipeline.config import RunConfig, dump
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.stores import StoreError
from support.small_run import TOPK, run_data
from support.small_store import build_store

PAGE = (Path(__file__).parents[1] / "docs" / "notebook.md").read_text(encoding="utf-8")
SITE = "blocks.8.hook_resid_post"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small run and its store where the demo's would lie."""
    monkeypatch.chdir(tmp_path)
    build_store(Path("data/demo"), 4000, {SITE: 16})
    data = run_data(Path("data/demo"), {"topk": TOPK}, "demo")
    data["store"]["sites"] = [SITE]
    strata.train(RunConfig.model_validate(data), show_progress=False)


def test_the_blocks_run_and_print_what_they_promise(demo: None, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("".join(blocks("yaml")), encoding="utf-8")
    names: dict[str, object] = {}
    assert len(blocks("python")) == 6
    for block in blocks("python"):
        exec(block, names)
    printed = capsys.readouterr().out
    assert re.search(r"^64 latents, [0-4]\.\d active on a row, FVU 0\.\d+$", printed, flags=re.MULTILINE), printed
    assert len(re.findall(r"^ *\d+\.\d\d b?'.* w\d+'$", printed, flags=re.MULTILINE)) == 5, printed
    assert printed.count("density from") == 10
    assert "109 documents of 36 rows, means (109, 16)\n" in printed
    assert re.search(r"^8\.0 \{'my_site': '[0-9a-f]{64}'\}$", printed, flags=re.MULTILINE), printed


def test_a_config_may_be_settings_or_a_file(demo: None) -> None:
    data = run_data(Path("data/demo"), {"topk": TOPK}, "demo")
    data["store"]["sites"] = [SITE]
    settings = RunConfig.model_validate(data)
    Path("c.yaml").write_text(dump(settings), encoding="utf-8")
    assert strata.evaluate(settings, show_progress=False) == strata.evaluate("c.yaml", show_progress=False)
    assert strata.train("c.yaml", only=["topk"], show_progress=False).keys() == {f"topk@{SITE}"}


@pytest.mark.parametrize(
    ("path", "format", "message"),
    [
        ("runs/demo/none@x", "strata", "no trained SAE; give the folder of a variant"),
        ("runs/demo", "strata", "no trained SAE"),
        ("runs/demo/topk@x\0", "strata", "path"),
        (f"runs/demo/topk@{SITE}", "pickle", "'pickle' is unknown; allowed: strata"),
    ],
)
def test_what_is_no_sae_is_refused(demo: None, path: str, format: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        strata.load(path, format)


def test_a_device_that_is_not_there_is_refused(demo: None) -> None:
    with pytest.raises(ConfigError, match="device: 'gpu' is not allowed here; allowed: auto, cpu"):
        strata.load(f"runs/demo/topk@{SITE}", device="gpu")


def test_an_sae_that_diverged_is_not_handed_out(demo: None) -> None:
    wild = {**TOPK, "training": {"learning_rate": 1e30}}
    data = run_data(Path("data/demo"), {"topk": TOPK, "wild": wild}, "demo")
    data["store"]["sites"] = [SITE]
    data["variants"]["wild"]["objective"] = {"reconstruction": {"weight": 1e30}}
    assert strata.train(RunConfig.model_validate(data), show_progress=False).keys() == {f"topk@{SITE}"}
    with pytest.raises(CheckpointError, match=r"training diverged at step \d+ \(.+\), so this is no trained SAE"):
        strata.load(f"runs/demo/wild@{SITE}")


def test_a_tilde_is_the_home_folder_for_every_function_that_takes_a_path(
    demo: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert strata.open_store("~/data/demo").id == strata.open_store("data/demo").id
    assert strata.load(f"~/runs/demo/topk@{SITE}").provenance == strata.load(f"runs/demo/topk@{SITE}").provenance
    made = strata.write_store("~/made", {"mine": np.ones((20, 4), np.float32)})
    assert made.path == tmp_path / "made"
    assert not Path("~").exists()


def test_both_spellings_of_a_path_give_one_sae(demo: None) -> None:
    short, long = (strata.load(f"runs/demo/{folder}topk@{SITE}") for folder in ("", "variants/"))
    assert short.provenance == long.provenance
    with pytest.raises(StoreError, match="not an activation store"):
        strata.open_store("runs/demo")
