"""What TensorBoard, wandb and MLflow hold of a run is what its folder holds, each line once."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from typer.testing import CliRunner

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.tracking.found import scores_of
from strata_sae.pipeline.tracking.to_mlflow import flat
from support.followed_training import SAES, TRACKERS, config_of
from support.small_run import SITE, TOPK
from support.trackers import (
    as_mlflow,
    in_curves,
    in_mlflow,
    in_tensorboard,
    in_wandb,
    mlflow_run,
    tensorboard_text,
    wandb_records,
    wandb_summary,
)

KEY = "5ec2e7" * 6 + "cafe"
"""An API key of wandb's form."""
SECRETS = {"WANDB_API_KEY": KEY, "MLFLOW_TRACKING_TOKEN": KEY, "MLFLOW_TRACKING_PASSWORD": KEY}
WILD = f"wild@{SITE}"


class Tracked(NamedTuple):
    run: RunFolder
    config: TrainConfig


@pytest.fixture(scope="module")
def tracked(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracked]:
    """Trained, scored and reported in three commands, so that trackers are opened three times; one SAE diverges."""
    folder = tmp_path_factory.mktemp("tracked")
    plain = config_of(store, TRACKERS).model_dump(mode="json", exclude_unset=True)
    wild = {**TOPK, "training": {"learning_rate": 1e30, "clip_norm": None}}
    data = plain | {"variants": plain["variants"] | {"wild": wild}, "evaluation": {"context_tokens": 3}}
    config = TrainConfig.of(RunConfig.model_validate(data), "config")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        with stages.trackers(config):
            stages.train_saes(config)
        with stages.trackers(config):
            stages.judge_saes(config)
        with stages.trackers(config):
            stages.write_report(config)
        yield Tracked(RunFolder(Path("runs/run")), config)


@pytest.mark.parametrize("label", [*SAES, WILD])
def test_curves_are_shown_line_by_line(tracked: Tracked, label: str) -> None:
    expected = in_curves(tracked.run, label)
    assert [step for step, _ in expected["loss"]][:3] == [1, 5, 10][: len(expected["loss"])]
    found = in_tensorboard(tracked.run, label)
    as_float32 = {name: [(s, torch.tensor(v).item()) for s, v in points] for name, points in expected.items()}
    assert {name: found[name] for name in expected} == as_float32
    found = in_mlflow(tracked.run, label)
    assert {name: found[name] for name in as_mlflow(expected)} == as_mlflow(expected)
    assert in_wandb(tracked.run, label) == expected


@pytest.mark.parametrize("label", SAES)
def test_scores_are_shown_with_their_population(tracked: Tracked, label: str) -> None:
    scores = scores_of(tracked.run.variant(label))
    metrics = json.loads(tracked.run.variant(label).metrics.read_text())
    assert scores["as_trained/r2_pooled"] == metrics["metrics"]["r2_pooled"]["value"]
    assert scores["all_but_special/r2_pooled"] == metrics["all_but_special"]["metrics"]["r2_pooled"]["value"]
    assert len(scores) > 20
    found = in_tensorboard(tracked.run, label)
    assert {name: found[name] for name in scores} == {n: [(31, torch.tensor(v).item())] for n, v in scores.items()}
    found = in_mlflow(tracked.run, label)
    once = as_mlflow({name: [(30, value)] for name, value in scores.items()})
    assert {name: found[name] for name in once} == once
    summary = wandb_summary(tracked.run, label)
    assert {name: summary[name] for name in scores} == scores
    assert not scores.keys() & in_curves(tracked.run, label).keys()


def test_config_and_ending_are_shown(tracked: Tracked) -> None:
    config = json.loads(tracked.run.variant(SAES[0]).config.read_text())
    config.pop("self_sha256")
    assert json.loads(tensorboard_text(tracked.run, SAES[0], "config").strip("`").removeprefix("json")) == config
    _, run = mlflow_run(tracked.run, SAES[0])
    assert run.data.params == {name: value[:500] for name, value in flat(config)}
    assert run.data.params["training.batch_size"] == "64"
    assert (run.info.status, run.data.tags["strata.run"]) == ("FINISHED", "run")
    assert mlflow_run(tracked.run, WILD)[1].info.status == "FAILED"
    begun = [record.run for record in wandb_records(tracked.run, SAES[0]) if record.HasField("run")]
    assert len({run.run_id for run in begun}) == 1 < len(begun)
    assert {(run.project, run.run_group) for run in begun} == {("strata", "run")}
    assert not any(run.host or run.HasField("git") for run in begun), "nothing of the machine is sent"
    sent = {item.key: json.loads(item.value_json) for item in begun[0].config.update}
    assert sent["training"] == config["training"]
    ends = [record.exit.exit_code for record in wandb_records(tracked.run, WILD) if record.HasField("exit")]
    assert (ends[0], wandb_summary(tracked.run, WILD)["ending"]) == (1, "diverged")


def test_the_report_is_an_artifact_of_the_whole_run(tracked: Tracked) -> None:
    client, run = mlflow_run(tracked.run, "report")
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"report.html", "results.csv"}
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    (saved,) = (tracked.run.tracking / "wandb").glob("*/files/report.html")
    assert artifacts.joinpath("report.html").read_bytes() == tracked.run.report.read_bytes() == saved.read_bytes()
    named = {file.path for record in wandb_records(tracked.run, "report") for file in record.files.files}
    assert named == {"report.html", "results.csv"}
    assert tensorboard_text(tracked.run, "report", "results.csv").count("\n") == 1 + 3


def test_what_was_sent_is_not_sent_again(tracked: Tracked) -> None:
    before = tree(tracked.run.tracking)
    done = CliRunner().invoke(app, ["--quiet", "track", str(tracked.run.path)])
    assert (done.exit_code, done.output) == (0, "")
    assert tree(tracked.run.tracking) == before


def test_no_key_of_the_environment_is_in_any_file(tracked: Tracked) -> None:
    def holding(key: str) -> list[Path]:
        files = [path for path in tracked.run.path.rglob("*") if path.is_file()]
        assert len(files) > 100
        return [path for path in files if key.encode() in path.read_bytes()]

    assert holding(KEY) == []
    assert holding("relu@blocks") != [], "control: the search finds what is there"


def test_no_link_and_nothing_unfinished_is_left(tracked: Tracked) -> None:
    assert [path for path in tracked.run.tracking.rglob("*") if path.is_symlink() or path.name == "unfinished"] == []


def test_deleting_the_run_deletes_what_trackers_keep(tracked: Tracked, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tracked.run.path, tmp_path / "runs" / "run", symlinks=True)
    done = CliRunner().invoke(app, ["--quiet", "runs", "delete", str(tmp_path / "runs" / "run"), "--yes"])
    assert (done.exit_code, list((tmp_path / "runs").iterdir())) == (0, []), done.output


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
