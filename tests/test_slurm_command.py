"""`strata slurm`: which script it prints for which config, and what it refuses."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config import load
from support.slurm import options_of

ROOT = Path(__file__).parents[1]
MODEL = "model: {path: demo}\ncorpus: {sources: [{kind: python_docs}], n_tokens: 1000}\n"
TRAINING = """\
training: {n_steps: 10, warmup_steps: 0}
variants: {topk: {sae: {architecture: topk, d_sae: 16, k: 4}, objective: {reconstruction: {}}}}
"""
STORE = "name: run\nstore: {sites: [blocks.1.hook_resid_post]}\n"
SLURM = "engine: slurm\n"


def slurm(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["slurm", *arguments])


def config(folder: Path, *parts: str, name: str = "run.yaml") -> str:
    (folder / name).write_text("".join([STORE, *parts]), encoding="utf-8")
    return str(folder / name)


def words(script: str) -> list[str]:
    """What a task runs, after the program that was started here."""
    (line,) = (line for line in script.splitlines() if line.endswith(" &"))
    python, program, *rest = shlex.split(line)[:-1]
    assert python == sys.executable
    assert program == os.path.abspath(sys.argv[0])
    return rest


TOY = "toy: {kind: parent_always_on}\n"


@pytest.mark.parametrize(
    ("parts", "command"),
    [((MODEL, TRAINING), "run"), ((TRAINING,), "run"), ((TOY, TRAINING), "run"), ((MODEL,), "extract")],
)
def test_tasks_run_what_the_config_is_of(tmp_path: Path, parts: tuple[str, ...], command: str) -> None:
    path = config(tmp_path, SLURM, *parts)
    result = slurm(path)
    assert result.exit_code == 0, result.output
    assert words(result.stdout) == [command, path]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((MODEL, TRAINING), "engine.kind: is local"),
        ((SLURM,), "model: missing"),
        ((SLURM, MODEL, TRAINING.splitlines(keepends=True)[0]), "variants: missing"),
        (("engine: {kind: slurm, sbatch: ['--time=1; rm x']}\n", MODEL), "engine"),
    ],
)
def test_a_config_of_which_no_job_can_be_made_is_refused(tmp_path: Path, parts: tuple[str, ...], said: str) -> None:
    result = slurm(config(tmp_path, *parts))
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_a_relative_path_and_the_changes_reach_the_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config(tmp_path, MODEL, TRAINING, name="a 'b'.yaml")
    monkeypatch.chdir(tmp_path)
    changes = ["--set", "engine={kind: slurm, workers: 5}", "--set", "report.title=$(touch it)\n'; exit"]
    result = slurm("a 'b'.yaml", *changes)
    assert result.exit_code == 0, result.output
    (line,) = (part for part in result.stdout.split("\n\n") if "report.title" in part)
    command = shlex.split(line.partition(" &\n")[0])
    assert command[2:] == ["run", str(tmp_path / "a 'b'.yaml"), *changes]
    assert options_of(result.stdout)["array"] == "0-4"


def test_a_path_that_is_no_text_is_printed_as_it_is(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    result = slurm(config(folder, SLURM, MODEL))
    assert result.exit_code == 0, result.output
    assert os.fsencode(folder) in result.stdout_bytes


def test_the_example_is_a_script_that_bash_and_sbatch_read() -> None:
    path = ROOT / "configs/cluster_slurm.yaml"
    result = slurm(str(path))
    assert result.exit_code == 0, result.output
    options = options_of(result.stdout)
    assert (options["array"], options["cpus-per-task"], options["time"]) == ("0-3", "2", "00:30:00")
    done = subprocess.run(["bash", "-n"], input=result.stdout, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_both_examples_train_the_same(tmp_path: Path) -> None:
    slurm_config, ray_config = (load(ROOT / f"configs/cluster_{kind}.yaml") for kind in ("slurm", "ray"))
    different = {name for name, value in slurm_config if value != getattr(ray_config, name)}
    assert different == {"name", "engine"}
