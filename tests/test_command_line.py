"""What a person types, and what the program answers: exit codes, messages, order of the stages."""

import errno
import json
import logging
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.stores.errors import StoreError

ROOT = Path(__file__).parents[1]
STAGES = {
    "extract": "extract_activations",
    "train": "train_saes",
    "evaluate": "evaluate_saes",
    "report": "write_report",
}
MEASURE = "measure_if_the_model_is_there"
OF_THE_DEMO = [*list(STAGES.values())[:-1], MEASURE, "write_report"]
"""The demo asks for the losses of the model, too."""


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Replaces the stages by notes of (stage, config)."""
    notes: list[tuple[str, Any]] = []
    for stage in (*STAGES.values(), MEASURE):
        monkeypatch.setattr(stages, stage, lambda config, *_, stage=stage: notes.append((stage, config)))
    monkeypatch.chdir(ROOT)
    return notes


def strata(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom strata_sae.pipeline.commands.app import app\n"
        "try: app(['--help'])\nexcept SystemExit: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "Stage 1" in done.stdout
    heavy = {"torch", "numpy", "zarr", "transformers", "datasets", "pydantic", "yaml", "plotly", "jinja2"}
    assert heavy & set(done.stdout.split()) == set()


def test_run_is_the_four_stages_in_order(called: list[tuple[str, Any]]) -> None:
    assert strata("run", "configs/demo.yaml").exit_code == 0
    assert [stage for stage, _ in called] == OF_THE_DEMO
    assert {config.name for _, config in called} == {"demo"}


@pytest.mark.parametrize("arguments", [(), ("--quiet",), ("--log-level", "debug")])
def test_no_command_runs_the_demo(called: list[tuple[str, Any]], arguments: tuple[str, ...]) -> None:
    assert strata(*arguments).exit_code == 0
    assert [(stage, config.name) for stage, config in called] == [(stage, "demo") for stage in OF_THE_DEMO]


@pytest.mark.parametrize(("command", "stage"), list(STAGES.items()))
def test_a_command_runs_its_stage_alone(called: list[tuple[str, Any]], command: str, stage: str) -> None:
    assert (
        strata(command, "configs/smoke.yaml", "--set", "training.learning_rate=1e-4", "--set", "seed=7").exit_code == 0
    )
    ((name, config),) = called
    assert (name, config.training.learning_rate, config.seed) == (stage, 1e-4, 7)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "configs/demoo.yaml"), "no such config file; did you mean configs/demo.yaml?"),
        (("run", "configs/demo.yaml", "--set", "training.learning_rat=1"), "did you mean 'learning_rate'?"),
        (("run", "configs/demo.yaml", "--set", "training.n_steps"), "expected key.path=value"),
        (("--log-level", "loud"), "allowed: debug, info, warning, error"),
        (("run", "a.yaml", "b.yaml"), "unexpected extra argument"),
        (("runn", "configs/demo.yaml"), "No such command"),
        (("train", "configs/demo.yaml", "--sett", "a=1"), "No such option"),
        (("store",), "Missing command"),
    ],
)
def test_bad_input_exits_with_2_and_starts_nothing(
    called: list[tuple[str, Any]], arguments: tuple[str, ...], said: str
) -> None:
    result = strata(*arguments)
    assert (result.exit_code, called) == (2, [])
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("a.yaml:1: one\na.yaml:2: two"), 2, "a.yaml:1: one\na.yaml:2: two\n"),
        (StoreError("data/x: damaged"), 1, "data/x: damaged\n"),
        (CheckpointError("runs/x: damaged"), 1, "runs/x: damaged\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "data/x"),
            1,
            "data/x: no space left; free some and run the same",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "data/x"), 1, "data/x: disk quota exceeded; free some"),
        (OSError(errno.EROFS, "Read-only file system", "data/x"), 1, "data/x: the file system is read-only; choose"),
        (
            PermissionError(errno.EACCES, "Permission denied", "data/x"),
            1,
            "data/x: permission denied; change it or choose",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), 1, "No such file or directory: 'x'"),
        (KeyboardInterrupt(), 130, "the same command goes on"),
    ],
)
def test_an_error_is_told_without_a_traceback(
    called: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    monkeypatch.setattr(stages, "train_saes", raising(error))
    result = strata("run", "configs/demo.yaml")
    assert result.exit_code == code
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert [stage for stage, _ in called] == ["extract_activations"]


def test_debug_shows_where_an_error_comes_from(called: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "train_saes", raising(StoreError("data/x: damaged")))
    result = strata("--debug", "train", "configs/demo.yaml")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("\ndata/x: damaged\n")


def test_a_bug_keeps_its_traceback(called: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "train_saes", raising(ZeroDivisionError("a bug")))
    assert isinstance(strata("train", "configs/demo.yaml").exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("arguments", "level", "shows"),
    [((), "INFO", True), (("--quiet",), "WARNING", False), (("--log-level", "debug"), "DEBUG", True)],
)
def test_quiet_and_log_level(
    called: list[Any], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], level: str, shows: bool
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(stages, "train_saes", lambda config, *_: seen.append(stages.shows_progress()))
    assert strata(*arguments, "train", "configs/demo.yaml").exit_code == 0
    assert seen == [shows]
    assert logging.getLogger("strata_sae").level == logging.getLevelName(level)


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        (("train", "configs/demo.yaml", "--quiet"), "WARNING"),
        (("train", "--log-level", "debug", "configs/demo.yaml"), "DEBUG"),
        (("train", "configs/demo.yaml", "--log-level=error"), "ERROR"),
        (("--log-level", "error", "train", "configs/demo.yaml"), "ERROR"),
    ],
)
def test_quiet_and_log_level_may_stand_after_the_command(
    called: list[Any], arguments: tuple[str, ...], level: str
) -> None:
    assert strata(*arguments).exit_code == 0
    assert [stage for stage, _ in called] == ["train_saes"]
    assert logging.getLogger("strata_sae").level == logging.getLevelName(level)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "configs/demo.yaml", "--log-level"), "--log-level: '' is not allowed; allowed: debug"),
        (("train", "configs/demo.yaml", "--log-level", "loud"), "allowed: debug, info, warning, error"),
        (("train", "--", "--quiet"), "--quiet: no such config file"),
        (("train", "configs/demo.yaml", "--quieter"), "No such option"),
    ],
)
def test_control_other_words_after_the_command_are_not_taken_for_them(
    called: list[Any], arguments: tuple[str, ...], said: str
) -> None:
    result = strata(*arguments)
    assert (result.exit_code, called) == (2, [])
    assert said in result.stderr


def test_version_is_that_of_the_package(called: list[Any]) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    result = strata("--version")
    assert (result.exit_code, result.stdout, called) == (0, f"{declared}\n", [])


def test_no_command_where_there_is_no_demo_prints_the_help(
    called: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = strata()
    assert (result.exit_code, called) == (0, [])
    assert "init" in result.stdout


def test_a_package_that_is_not_installed_is_named_with_its_extra(
    called: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "train_saes", raising(ModuleNotFoundError("no", name="transformers.models")))
    result = strata("train", "configs/demo.yaml")
    assert result.exit_code == 1
    assert result.stderr == "transformers.models is not installed: pip install 'strata-sae[extract]'\n"
    monkeypatch.setattr(stages, "train_saes", raising(ModuleNotFoundError("a bug", name="strata_sae.nothing")))
    assert isinstance(strata("train", "configs/demo.yaml").exception, ModuleNotFoundError)


@pytest.mark.parametrize("command", [("plan",), ("extract", "--dry-run")])
def test_a_dry_run_prints_the_plan_only(
    called: list[Any], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(
        "strata_sae.pipeline.extractor.extract.describe_plan", lambda config, **_: f"plan of {config.name}"
    )
    result = strata(*command, "configs/demo.yaml")
    assert (result.stdout, called) == ("plan of demo\n", [])


@pytest.mark.parametrize("command", ["plan", "extract", "run"])
def test_rehash_forgets_what_is_remembered_of_input_files(
    called: list[Any], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    forgotten: list[str] = []
    monkeypatch.setattr("strata_sae.pipeline.input_files.forget", lambda: forgotten.append(command))
    monkeypatch.setattr("strata_sae.pipeline.extractor.extract.describe_plan", lambda config, **_: "")
    assert strata(command, "configs/demo.yaml").exit_code == 0
    assert forgotten == []
    assert strata(command, "configs/demo.yaml", "--rehash").exit_code == 0
    assert forgotten == [command]


def test_store_info_is_text_or_json(make_store: Callable[..., Path]) -> None:
    store = make_store()
    assert json.loads(strata("store", "info", str(store), "--json").stdout)["n_rows"] == 1000
    assert "1,000 of" in strata("store", "info", str(store)).stdout
    result = strata("store", "info", str(store / "nowhere"))
    assert result.exit_code == 1
    assert "nowhere" in result.stderr


def test_store_verify_finds_a_flipped_byte_when_deep(make_store: Callable[..., Path]) -> None:
    store = make_store()
    assert strata("store", "verify", str(store)).exit_code == 0
    assert strata("store", "verify", "--deep", str(store)).exit_code == 0
    shard = max(
        (path for path in store.glob("activations.zarr/sites/**/c/*/*") if path.is_file()), key=lambda p: p.name
    )
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(content)
    result = strata("store", "verify", "--deep", str(store))
    assert result.exit_code == 1
    assert shard.name in result.stderr


def raising(error: BaseException) -> Callable[[Any], None]:
    def stage(config: Any, *_: object) -> None:
        raise error

    return stage


def test_the_store_commands_make_list_and_share_stores(make_store: Callable[..., Path], tmp_path: Path) -> None:
    store, cut, sent, back = make_store(), tmp_path / "cut", tmp_path / "sent", tmp_path / "back"
    assert strata("store", "slice", str(store), str(cut), "--rows", "0:500", "--encoding", "int8").exit_code == 0
    assert strata("store", "shuffle", str(store), str(tmp_path / "mixed"), "--seed", "3").exit_code == 0
    pushed = strata("store", "push", str(cut), str(sent))
    pulled = strata("store", "pull", str(sent), str(back), "--expect", pushed.stdout.split()[-1])
    assert (pushed.exit_code, pulled.exit_code) == (0, 0)
    assert strata("store", "verify", "--deep", str(back)).exit_code == 0
    listed = strata("store", "list", str(tmp_path)).stdout
    assert all(name in listed for name in ("cut", "mixed", "sent", "back", "int8"))
    wrong = strata("store", "pull", str(sent), str(tmp_path / "other"), "--expect", "0" * 64)
    assert wrong.exit_code == 1
    assert not (tmp_path / "other").exists()


NO_RANGES = ["5", "a:b", "-1:5", "1:²", "0:" + "9" * 5000, "7" * 5000 + ":1", "5:5", "6:5", ":", "0:1e3", "", "0:٣"]


@pytest.mark.parametrize("rows", NO_RANGES, ids=lambda rows: ascii(rows[:9]))
@pytest.mark.parametrize("command", ["slice", "pull"])
def test_a_row_range_that_is_none_is_bad_input(
    make_store: Callable[..., Path], tmp_path: Path, command: str, rows: str
) -> None:
    result = strata("store", command, str(make_store()), str(tmp_path / "out"), f"--rows={rows}")
    assert result.exit_code == 2
    assert "START:STOP" in result.stderr
    assert len(result.stderr) < 300
    assert not (tmp_path / "out").exists()


def test_a_row_range_beyond_the_store_is_an_error(make_store: Callable[..., Path], tmp_path: Path) -> None:
    result = strata("store", "slice", str(make_store()), str(tmp_path / "out"), "--rows", "0:" + "9" * 18)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", ["-1", str(2**64), "9" * 61, "9" * 5000, "x", "1e3", "²"], ids=lambda seed: seed[:9])
@pytest.mark.parametrize("command", ["shuffle", "spot-check"])
def test_a_seed_that_is_none_is_bad_input(
    make_store: Callable[..., Path], tmp_path: Path, command: str, seed: str
) -> None:
    out = [str(tmp_path / "out")] * (command == "shuffle")
    assert strata("store", command, str(make_store()), *out, f"--seed={seed}").exit_code == 2
    assert not (tmp_path / "out").exists()


def test_the_largest_seed_is_one(make_store: Callable[..., Path], tmp_path: Path) -> None:
    assert strata("store", "shuffle", str(make_store()), str(tmp_path / "out"), f"--seed={2**63 - 1}").exit_code == 0
