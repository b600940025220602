"""A score is a pure function of files: whichever commands ran before, in whichever process, its bytes are the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import support.scored_run as scored_run
from strata_sae.pipeline.config import RunConfig, dump
from strata_sae.pipeline.evaluation import evaluate as module
from strata_sae.pipeline.evaluation.evaluate import evaluate
from strata_sae.pipeline.saes.base import SAE
from strata_sae.pipeline.trainer.train import train
from support.scored_run import Made
from support.small_run import RELU, SITE, run_data

FILES = ("metrics.json", "features.safetensors", "examples.json")
FOLDER = Path("runs/dense/variants") / f"relu@{SITE}"


def scores() -> dict[str, bytes]:
    return {name: (FOLDER / name).read_bytes() for name in FILES}


def forget() -> None:
    for name in FILES:
        (FOLDER / name).unlink()


@pytest.fixture
def config(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A ReLU SAE about a fifth of whose latents are on, trained with a break-even density on the other side of that."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    data = run_data(made.folder / "store", {"relu": RELU}, "dense", n_steps=20, break_even_density=0.9)
    config = RunConfig.model_validate({**data, "evaluation": {"batch_size": 64, "context_tokens": 3}})
    train(config, show_progress=False)
    evaluate(config)
    return config


def test_no_command_before_changes_a_byte(made: Made, config: RunConfig):
    after_training = scores()
    forget()
    other = made.config.model_copy(update={"name": "other", "variants": {"relu": made.config.variants["relu"]}})
    train(other, show_progress=False)  # with the usual density
    evaluate(config)
    assert scores() == after_training
    forget()
    Path("dense.yaml").write_text(dump(config), encoding="utf-8")
    program = "import sys, torch; from strata_sae.pipeline.commands.app import app\n"
    program += "torch.set_num_threads(1); app(sys.argv[1:])"
    repository = Path(scored_run.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, "evaluate", "dense.yaml"],
        env={"PYTHONPATH": str(repository), "PATH": "/usr/bin:/bin", "HOME": str(Path.cwd()), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert scores() == after_training


def test_control_another_density_gives_other_bytes(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    """What a module global did: `train` set the config's density, `evaluate` alone had the default."""
    before = scores()
    forget()
    load = module.load

    def with_the_default(*given):
        trained = load(*given)
        del trained.sae.break_even_density
        assert trained.sae.break_even_density == SAE.break_even_density != 0.9
        return trained

    monkeypatch.setattr(module, "load", with_the_default)
    evaluate(config)
    assert scores() != before
    assert json.loads(scores()["metrics.json"])["n_rows"] > 0
