"""What an imported SAE loses with the model, and what probes and first letters say of it: a trained one's numbers."""

from pathlib import Path
from typing import Any

import pytest

from strata_sae.pipeline.config.run import RunConfig, TrainConfig
from strata_sae.pipeline.evaluation.absorption.absorption import measure_absorption
from strata_sae.pipeline.evaluation.probing.probing import probe_saes
from strata_sae.pipeline.imports.saes import import_saes
from strata_sae.pipeline.intervention.intervene import intervene
from strata_sae.pipeline.reading import first_letters, probing_texts
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from support.evaluation_folder import SITE
from support.fake_format import NAME, copy_of
from support.imported_run import said_by
from support.judged_run import MLP_IN, MLP_OUT, STREAM, judged_config, put, rough
from support.planted_absorption import absorption_run
from support.probed_run import probed_run
from support.tiny_models import D_MODEL


def with_imported(config: TrainConfig, folder: VariantFolder, **said: Any) -> tuple[TrainConfig, VariantFolder]:
    """The config with a copy of an SAE that is there, imported as `theirs`, and the copy's folder."""
    name = "theirs-" + folder.site.replace(".", "-")
    source = copy_of(folder, Path("from_elsewhere") / name, **said)
    data = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    data["variants"][name] = {"from": {"format": NAME, "path": str(source)}}
    config = TrainConfig.of(RunConfig.model_validate(data), "config.yaml")
    import_saes(config)
    return config, RunFolder(config.run_path()).variant(f"{name}@{folder.site}")


def test_losses_with_the_model_are_those_of_the_trained_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    config = judged_config(tmp_path)
    ours = [put(config, "ours", rough(D_MODEL), [STREAM]), put(config, "t", rough(D_MODEL), [MLP_IN], [MLP_OUT])]
    config, sae = with_imported(config, ours[0])
    config, transcoder = with_imported(config, ours[1], site=MLP_IN, writes=MLP_OUT)
    intervene(config)
    for trained, imported in zip(ours, (sae, transcoder), strict=True):
        assert said_by(imported.model_metrics) == said_by(trained.model_metrics)
    assert said_by(sae.model_metrics)["forms"] != said_by(transcoder.model_metrics)["forms"], "the control"


def test_probes_are_those_of_the_trained_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probing_texts, "check_same_model", lambda labelled, store: None)
    config = probed_run(tmp_path, tasks=[])
    ours = RunFolder(config.run_path()).variant(f"topk@{SITE}")
    config, theirs = with_imported(config, ours)
    probe_saes(config)
    assert said_by(theirs.probing) == said_by(ours.probing)
    assert [task["name"] for task in said_by(theirs.probing)["probed"]] == ["first_letter_s"]


def test_absorption_is_that_of_the_trained_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(first_letters, "check_same_model", lambda labelled, store: None)
    config = absorption_run(tmp_path)
    ours = RunFolder(config.run_path()).variant(f"identity@{SITE}")
    config, theirs = with_imported(config, ours)
    measure_absorption(config)
    assert said_by(theirs.absorption) == said_by(ours.absorption)
