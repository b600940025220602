"""What a system, an environment, a small machine or a foreign library makes of a command: one line, no traceback."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from typer.testing import CliRunner, Result

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.commands.app import THREADS, app, why_not_here
from strata_sae.pipeline.config import RunConfig, dump
from strata_sae.pipeline.config.run import RunConfig as Config
from strata_sae.pipeline.errors import LARGEST_INT, ConfigError
from strata_sae.pipeline.trainer.train import train
from support.command_tree import callbacks
from support.small_run import RELU, SITE, TOPK, run_data

ROOT = Path(__file__).parents[1]


def strata(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def smoke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


# ---- systems and variables


def test_windows_gets_one_line() -> None:
    """As there: no fcntl, and the line comes before anything heavy is loaded."""
    program = (
        "import sys; sys.modules['fcntl'] = None; sys.argv = ['strata', 'run', 'c.yaml']\n"
        "import run_pipeline; sys.platform = 'win32'\n"
        "run_pipeline.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Windows is not supported")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", THREADS)
@pytest.mark.parametrize("text", ["abc", "-5", "0", "1.5", "99999999999999999999", "4,x", "٣", " "])
def test_threads_that_are_no_number_are_refused(name: str, text: str) -> None:
    said = why_not_here("linux", {name: text})
    assert said is not None
    assert said.startswith(f"{name}: {text!r} is no number of threads")


@pytest.mark.parametrize("text", ["", "1", "64", "4,2"])
def test_threads_that_are_a_number_are_taken(text: str) -> None:
    assert why_not_here("linux", dict.fromkeys(THREADS, text)) is None
    assert why_not_here("darwin", {}) is None


def test_main_ends_before_it_begins() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "many", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, ROOT / "run_pipeline.py", "run"], env=environment, capture_output=True)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)


# ---- configs


@pytest.mark.parametrize("key", ["training.device", "model.device"])
@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:", "cuda:-1", "cuda:01", "CPU", "", "xpu", "meta"])
def test_a_device_that_is_none_is_refused_with_its_key(smoke: None, key: str, name: str) -> None:
    result = strata("train", "configs/smoke.yaml", "--set", f"{key}='{name}'")
    assert result.exit_code == 2
    assert f"{key}: {name!r} is not" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", [".", "..", "..."])
@pytest.mark.parametrize("key", ["name", "variants", "store.sites", "reads", "writes"])
def test_names_of_folders_are_not_made_of_dots(key: str, name: str) -> None:
    data = run_data(Path("store"), {"relu": RELU})
    if key == "name":
        data["name"] = name
    elif key == "variants":
        data["variants"] = {name: RELU}
    elif key == "store.sites":
        data["store"]["sites"] = [name]
    else:
        data["variants"]["relu"] = {**RELU, "reads": [SITE], "writes": [SITE], key: [name]}
    with pytest.raises(ValidationError, match="made of dots alone"):
        Config.model_validate(data)


def test_a_run_called_dots_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = RunConfig.model_validate(run_data(Path("store"), {"relu": RELU}))
    Path("config.yaml").write_text(mine := dump(config).replace("name: run", "name: .."))
    for command in ("train", "evaluate", "report"):
        assert strata(command, "config.yaml").exit_code == 2
    assert Path("config.yaml").read_text() == mine
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def config_files(folder: Path) -> dict[str, Path]:
    """Files that are no config, by what they are."""
    contents = {
        "not UTF-8": b"\xff\xfe", "empty": b"", "a list": b"- a\n", "tabs": b"name:\tx\n\tseed: 1\n", "open": b"a: [",
        "NUL": b"a: \0", "a number": b"42", "a tag": b"a: !!python/object:os.system {}", "deep": b"[" * 10_000,
        "large": b"a" * 2**21,
    }  # fmt: skip
    made = {"a folder": folder, "not there": folder / "x", "under a file": folder / "empty" / "c.yaml"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        made[name] = folder / name
    (folder / "loop").symlink_to("loop")
    return made | {"a loop": folder / "loop", "too long": folder / ("x" * 5000)}


@pytest.mark.parametrize("flag", ["CONFIG", "--add", "--config"])
def test_a_file_that_is_no_config_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    monkeypatch.chdir(tmp_path)
    (good := tmp_path / "good").write_text(dump(RunConfig.model_validate(run_data(Path("store"), {"relu": RELU}))))
    for what, path in config_files(tmp_path).items():
        arguments = {
            "CONFIG": ("train", str(path)),
            "--add": ("train", str(good), "--add", str(path)),
            "--config": ("store", "add-sites", "s", "o", "--site", SITE, "--config", str(path)),
        }[flag]
        result = strata(*arguments)
        assert (what, result.exit_code, result.exception.__class__) == (what, 2, SystemExit)
        assert str(path) in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize("level", ["", "loud", "10", "INFO", "\0"])
def test_a_log_level_that_is_none_is_bad_input(level: str) -> None:
    result = strata("--log-level", level, "store", "list")
    assert (result.exit_code, "allowed: debug, info, warning, error" in result.stderr) == (2, True)


# ---- numbers of the command line


def test_every_integer_of_the_command_line_is_bounded() -> None:
    found = {}
    for path, callback in callbacks(app):
        for name, hint in get_type_hints(callback, include_extras=True).items():
            if int in (inner := getattr(hint, "__origin__", None), *get_args(inner)):
                found[f"{path} {name}"] = (hint.__metadata__[0].min, hint.__metadata__[0].max)
    assert {"extract workers", "store shuffle seed"} <= found.keys()
    assert all(low is not None and high is not None and high <= LARGEST_INT for low, high in found.values()), found


@pytest.mark.parametrize("number", ["10000000000000000000", "9" * 5000, "-1", "nan", "1e3", ""])
def test_numbers_that_are_none_are_bad_input(make_store: Any, tmp_path: Path, number: str) -> None:
    store = str(make_store())
    for arguments in (
        ("shuffle", store, str(tmp_path / "o"), "--seed", number),
        ("spot-check", store, "--rows", number),
        ("slice", store, str(tmp_path / "o"), "--rows", f"0:{number}"),
    ):
        result = strata("store", *arguments)
        assert (arguments[0], result.exit_code) == (arguments[0], 2)
        assert "Traceback" not in result.output
        assert not (tmp_path / "o").exists()


def test_more_rows_than_there_are_cannot_be_compared(make_store: Any) -> None:
    result = strata("store", "spot-check", str(make_store()), "--rows", "1001")
    assert (result.exit_code, "--rows: 1001 is more than the 1000 rows" in result.stderr) == (2, True)


# ---- machines that are too small, and errors of libraries


def too_large_for_torch() -> None:
    torch.empty(2**55)


def too_large_for_numpy() -> None:
    np.empty(2**55)


def too_large_to_count() -> None:
    torch.empty(2**62, 4)


def no_memory() -> None:
    raise MemoryError


def no_memory_of_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has a total of 1 GiB")


def nested() -> None:
    nested()


def not_as_it_should_be() -> None:
    Config.model_validate({})


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (too_large_for_torch, "out of memory"),
        (too_large_for_numpy, "out of memory"),
        (too_large_to_count, "out of memory"),
        (no_memory, "out of memory"),
        (no_memory_of_a_gpu, "out of memory"),
        (nested, "nested too deeply"),
        (not_as_it_should_be, "does not hold what it should"),
    ],
)
def test_what_libraries_raise_is_told_in_a_line(smoke: None, monkeypatch: pytest.MonkeyPatch, cause: Any, said: str):
    monkeypatch.setattr(stages, "train_saes", lambda *_: cause())
    result = strata("train", "configs/smoke.yaml")
    assert (result.exit_code, said in result.stderr) == (1, True), result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" in strata("--debug", "train", "configs/smoke.yaml").stderr


def test_other_errors_of_those_types_are_bugs(smoke: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(stages, "train_saes", bug)
    assert isinstance(strata("train", "configs/smoke.yaml").exception, RuntimeError)


@pytest.mark.parametrize("d_sae", [2**40, 2**62])
def test_what_can_never_fit_is_refused_before_it_is_allocated(
    make_store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, d_sae: int
) -> None:
    monkeypatch.chdir(tmp_path)
    variant = {**TOPK, "sae": {**TOPK["sae"], "d_sae": d_sae}}
    config = RunConfig.model_validate(run_data(make_store(n_rows=2000), {"topk": variant}))
    monkeypatch.setattr("strata_sae.pipeline.trainer.one_pass.initial_weights", lambda *_: pytest.fail("allocated"))
    with pytest.raises(ConfigError, match=rf"topk@{SITE} needs about .* GB of memory, and this machine has .*d_sae"):
        train(config, show_progress=False)
