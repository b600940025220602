"""What several ranks cannot do is refused in a line, before any of them waits for another."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.sharding.launch import Launch, launch
from strata_sae.pipeline.trainer.train import train
from support.small_run import TOPK, run_data, store_for_training

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK")


def by_torchrun(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    for name, value in zip(VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert launch() == Launch(0, 1, 1, 0)


def test_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    by_torchrun(monkeypatch, "5", "8", "4", "1")
    assert launch() == Launch(rank=5, n=8, n_here=4, number_here=1)


@pytest.mark.parametrize(
    "values",
    [("2", "2", "2", "0"), ("x", "2", "2", "0"), ("0", "", "1", "0"), ("0", "2", "2", "2"), ("-1", "2", "1", "0")],
)
def test_nonsense_is_one_line(values: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    by_torchrun(monkeypatch, *values)
    with pytest.raises(ConfigError, match="WORLD_SIZE") as caught:
        launch()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["run", "extract", "evaluate", "report"])
def test_other_commands_are_refused(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by_torchrun(monkeypatch, "0", "2", "2", "0")
    done = CliRunner().invoke(app, [command, "configs/demo.yaml"])
    assert done.exit_code == 2
    assert f"torchrun: 2 ranks of {command}, but only train" in done.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--set", "engine={workers: 2}"], "engine.workers: 2"),
        (["--set", "engine=ray"], "engine ray"),
        (["--set", "engine=slurm"], "engine slurm"),
        (["--extend", "5"], "--extend"),
        (["--dry-run"], "--dry-run"),
    ],
)
def test_what_does_not_go_with_ranks(options: list[str], named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by_torchrun(monkeypatch, "0", "2", "2", "0")
    done = CliRunner().invoke(app, ["train", "configs/smoke.yaml", *options])
    assert done.exit_code == 2
    assert named in done.stderr
    assert done.stderr.strip().count("\n") == 0


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sae.architecture: gated": (
        {"sae": {"architecture": "gated", "d_sae": 64}, "objective": {"reconstruction": {}, "gated_auxiliary": {}}},
        {},
    ),
    "objective.orthogonality": (
        TOPK | {"objective": {"reconstruction": {}, "orthogonality": {"weight": 0.01, "threshold": 0.2}}},
        {},
    ),
    "objective.prefix_reconstruction": (TOPK | {"objective": {"prefix_reconstruction": {}}}, {}),
    "sae.rank_by: contribution": (TOPK | {"sae": {**TOPK["sae"], "rank_by": "contribution", "decoder": "free"}}, {}),
    "sae.tie_break: random": (TOPK | {"sae": {**TOPK["sae"], "architecture": "batch_topk", "tie_break": "random"}}, {}),
    "sae.d_sae: 1": ({"sae": {"architecture": "topk", "d_sae": 1, "k": 1}, "objective": {"reconstruction": {}}}, {}),
    "resampling": (TOPK | {"resampling": {"every_steps": 5}}, {}),
    "training.encoder: certified_bfloat16": (TOPK, {"encoder": "certified_bfloat16"}),
    "training.input_scale: per_document": (TOPK, {"input_scale": "per_document"}),
    "training.decay: plateau": (TOPK, {"decay": "plateau"}),
    "training.heldout": (TOPK, {"heldout": {}}),
    "training.keep": (TOPK, {"keep": [0.5]}),
}


@pytest.mark.parametrize("named", CHANGES)
def test_what_ranks_cannot_hold_is_named(
    named: str, tmp_path: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, training = CHANGES[named]
    monkeypatch.chdir(tmp_path)
    config = RunConfig.model_validate(run_data(small_store, {"huge": variant}, **training))
    by_torchrun(monkeypatch, "0", "2", "2", "0")
    with pytest.raises(ConfigError) as caught:
        train(config, show_progress=False)
    assert named in str(caught.value)
    assert "jump_relu" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_for_training(tmp_path_factory.mktemp("store") / "store", n_rows=1000)
