"""`train --extend` goes on from imported weights where the variant says what for, and only where it is named."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.config import dump, load
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.report.page import write_report
from strata_sae.pipeline.runs.chain import read_config, read_training
from strata_sae.pipeline.runs.comparison_records import Comparisons
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.record_files import read_record
from strata_sae.pipeline.runs.trained import load as load_sae
from support.imported_run import OUT, TRAINED, TRANSCODER, config_of, folder_of, their
from support.page_parser import Page
from support.small_run import RELU, SITE

RUN = Path("runs/run")
OBJECTIVE = RELU["objective"]
STILL = {"learning_rate": 1e-30}


def weights(folder: VariantFolder) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder.weights)


def test_it_begins_with_the_imported_weights(here: Path):
    """With a rate of nothing they stay what they were, through the units of training and back."""
    config = config_of({"x": their("relu", objective=OBJECTIVE, training=STILL)})
    stages.train_saes(config, only=["x"], extend=2)
    before, after = weights(folder_of("relu")), weights(folder_of("x+2"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-6, atol=1e-6)
    record = read_config(folder_of("x+2")).record
    assert record.imported is None
    assert record.parent is not None
    assert (record.parent.name, record.parent.n_steps, record.training.n_steps) == (f"x@{SITE}", 0, 2)
    assert record.input_scale != 1.0, "it is trained in other units than it was imported in"


def test_it_learns_and_takes_part(here: Path):
    """Rows of half the length are what it does not know; its loss on them falls."""
    path = Path("theirs/relu/tensors.safetensors")
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({**tensors, "b_dec": tensors["b_dec"] + 1.0}, path)
    config = config_of(TRAINED | {"x": their("relu", objective=OBJECTIVE)})
    stages.train_saes(config, only=["x"], extend=20)
    stages.train_saes(config, only=["x+20"], extend=5)
    stages.judge_saes(config)
    assert read_training(folder_of("x+20"), read_config(folder_of("x+20")).record).record.rows == 20 * 64
    scores = {name: load_scores(name) for name in ("x", "x+20", "x+20+5")}
    assert scores["x"] < scores["x+20"]
    recipes = read_record(RunFolder(RUN).comparisons, Comparisons).record.tables[0].recipes
    assert {recipe.name: recipe.variants for recipe in recipes} == {
        name: [name] for name in ("topk", "relu", "x", "x+20", "x+20+5")
    }
    assert "x+20" in Page(write_report(RUN)).text


def load_scores(name: str) -> float:
    from strata_sae.pipeline.evaluation.evaluate import scores_of

    value = scores_of(RunFolder(RUN))[f"{name}@{SITE}"]["r2_pooled"]
    assert value is not None
    return value


def test_what_goes_on_is_no_seed_of_what_was_trained_so(here: Path):
    """The same settings, steps and objective, another seed: were it trained here, it would be a second seed."""
    config = config_of({"x": their("relu", objective=OBJECTIVE)}, seed=3)
    stages.train_saes(config, only=["x"], extend=20)
    config = config_of(TRAINED | {"x": their("relu", objective=OBJECTIVE)})
    stages.judge_saes(config)
    recipes = read_record(RunFolder(RUN).comparisons, Comparisons).record.tables[0].recipes
    assert ["relu"] in [recipe.variants for recipe in recipes]


def test_a_transcoder(here: Path):
    config = config_of({TRANSCODER: their(TRANSCODER, objective=OBJECTIVE, training=STILL)})
    stages.train_saes(config, only=[TRANSCODER], extend=2)
    site = f"{SITE}-to-{OUT}"
    before, after = (load_sae(folder_of(name, site)).sae for name in (TRANSCODER, f"{TRANSCODER}+2"))
    for name, tensor in before.parameters().items():
        torch.testing.assert_close(after.parameters()[name], tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "nothing says what to train it for; add variants.x.objective"),
        ({"objective": {"gated_auxiliary": {}}}, "variants.x"),
        ({"objective": OBJECTIVE, "training": {"input_scale": "per_document"}}, "input_scale: per_document"),
    ],
)
def test_what_cannot_go_on_is_refused_in_one_line(here: Path, changes: dict[str, Any], said: str):
    with pytest.raises(ConfigError) as refused:
        stages.train_saes(config_of({"x": their("relu", **changes)}), only=["x"], extend=2)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not folder_of("x+2").path.exists()


def test_nothing_imported_is_trained_unless_it_is_named(here: Path):
    config = config_of(TRAINED | {"x": their("relu", objective=OBJECTIVE)})
    stages.train_saes(config)
    assert read_config(folder_of("x")).record.imported is not None
    stages.train_saes(config, extend=2)
    assert folder_of("relu+2").training.exists()
    assert not folder_of("x+2").path.exists()


def test_an_objective_is_written_and_read_back(here: Path):
    config = config_of({"x": their("relu", objective=OBJECTIVE, training=STILL)})
    Path("c.yaml").write_text(dump(config))
    assert load(Path("c.yaml")).variants == config.variants
