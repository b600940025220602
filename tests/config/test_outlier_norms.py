"""Few rows that carry most of the norm are told by plan, extract and train, in one line with the share and the knob."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config import RunConfig, dump
from strata_sae.pipeline.reading.outlier_norms import FEW, outlier_norms
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.report.facts import UNEVEN
from support.small_presets import FILES
from support.small_run import RELU, SITE, run_data
from support.small_store import build_store

UNFILTERED = {"drop_bos": False, "drop_special": False}  # the small store's long rows are its BOS rows: 2.7 % of all
SAYS = (
    f"{SITE}: 2.7 % of the rows to train on (97 of 3,589) carry 98.5 % of the sum of squares, so scores and updates "
    "depend on them more than on all others; training.filters.max_norm_multiple: 3 leaves them out"
)


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build_store(tmp_path / "store", 4000)
    return tmp_path


def config(**filters: Any) -> RunConfig:
    return RunConfig.model_validate(run_data(Path("store"), {"relu": RELU}, n_steps=2, filters=filters))


def test_the_line_names_the_share_and_the_knob(in_folder):
    line = outlier_norms(config(**UNFILTERED), open_store(config()))
    assert line == SAYS


@pytest.mark.parametrize(
    "filters", [{"drop_bos": True}, {**UNFILTERED, "max_norm_multiple": 3.0}, {**UNFILTERED, "max_norm_multiple": 40.0}]
)
def test_nothing_is_said_where_they_are_left_out(in_folder, filters):
    assert outlier_norms(config(**filters), open_store(config())) is None


def test_many_long_rows_are_no_outliers(in_folder, monkeypatch):
    monkeypatch.setattr("strata_sae.pipeline.reading.outlier_norms.FEW", 0.02)
    assert FEW > 0.027
    assert outlier_norms(config(**UNFILTERED), open_store(config())) is None


@pytest.mark.parametrize("command", ["plan", "extract", "train"])
@pytest.mark.parametrize(("filters", "said"), [(UNFILTERED, 1), ({"drop_bos": True}, 0)], ids=["told", "control"])
def test_plan_extract_and_train_tell_it(in_folder, monkeypatch, command, filters, said):
    monkeypatch.setattr("strata_sae.pipeline.extractor.extract.describe_plan", lambda config, **_: "the plan")
    monkeypatch.setattr("strata_sae.pipeline.extractor.extract.extract", lambda *_, **__: None)
    Path("c.yaml").write_text(dump(config(**filters)))
    result = CliRunner().invoke(app, [command, "c.yaml"])
    assert result.exit_code == 0, result.output
    lines = [*result.stdout.splitlines(), *result.stderr.splitlines()]
    assert lines.count(SAYS) == said


@pytest.mark.parametrize("command", ["plan", "extract"])
def test_without_a_finished_store_nothing_is_said(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("strata_sae.pipeline.extractor.extract.describe_plan", lambda config, **_: "the plan")
    monkeypatch.setattr("strata_sae.pipeline.extractor.extract.extract", lambda *_, **__: None)
    Path("c.yaml").write_text(dump(config(**UNFILTERED)))
    assert CliRunner().invoke(app, [command, "c.yaml"]).exit_code == 0


def test_the_report_warns_from_the_same_share_on():
    from strata_sae.pipeline.reading.outlier_norms import MUCH

    assert MUCH == UNEVEN


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name != "variants"], ids=lambda path: path.stem)
def test_every_config_of_ours_chooses(path):
    """A default is no choice: a config says how it stands to rows of outlier norm."""
    training = yaml.safe_load(path.read_text())["training"]
    assert "max_norm_multiple" in training.get("filters", {}), "name it, with the source's choice where there is one"
