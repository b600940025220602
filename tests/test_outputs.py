"""Nothing is written into a store, by any command, key or variable: the table below names all that could."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner, Result

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config import RunConfig
from strata_sae.stores import ActivationStore, verify
from strata_sae.stores.format import folders
from support.lying_server import LyingServer, serving
from support.small_run import SITE, TOPK, run_data, store_for_training

INPUT, NO_PATH = "read only", "no path"
PARAMETERS = {
    "--log-level": NO_PATH,
    "run config": INPUT,
    "run --set": "the keys below",
    "plan config": INPUT,
    "plan --set": "the keys below",
    "extract config": INPUT,
    "extract --set": "the keys below",
    "extract --workers": NO_PATH,
    "train config": INPUT,
    "train --set": "the keys below",
    "train --stage": "OUTPUTS: train --stage",
    "train --only": NO_PATH,
    "train --extend": NO_PATH,
    "train --add": INPUT,
    "evaluate config": INPUT,
    "evaluate --set": "the keys below",
    "codes run": "OUTPUTS: the run folder of codes",
    "codes --set": "the keys below",
    "analyze run": "OUTPUTS: the run folder of analyze",
    "analyze what": NO_PATH,
    "analyze --set": "the keys below",
    "analyze --other": INPUT,
    "analyze --latent": NO_PATH,
    "analyze --n": NO_PATH,
    "analyze --least": NO_PATH,
    "analyze --most": NO_PATH,
    "analyze --rows": NO_PATH,
    "analyze --text": NO_PATH,
    "analyze --out": "OUTPUTS: analyze --out",
    "explore runs": INPUT,
    "explore --set": "the keys below",
    "explore --port": NO_PATH,
    "explore --export": "OUTPUTS: explore --export",
    "explore --latents": NO_PATH,
    "prompt run": INPUT,
    "prompt text": NO_PATH,
    "prompt --set": "the keys below",
    "prompt --latent": NO_PATH,
    "prompt --ablate": NO_PATH,
    "prompt --clamp": NO_PATH,
    "prompt --steer": NO_PATH,
    "prompt --tokens": NO_PATH,
    "prompt --out": "OUTPUTS: prompt --out",
    "report paths": "OUTPUTS: the run folder alone",
    "report --set": "the keys below",
    "slurm config": INPUT,
    "slurm --set": NO_PATH,
    "push saes": INPUT,
    "push url": "OUTPUTS: push run, push run file://",
    "pull url": INPUT,
    "pull out": "OUTPUTS: pull run",
    "pull --expect": NO_PATH,
    "export sae": INPUT,
    "export --format": NO_PATH,
    "export --out": "OUTPUTS: export",
    "track path": "OUTPUTS: the run folder of track RUN",
    "track --set": "the keys below",
    "init folder": "OUTPUTS: init",
    "init --model": INPUT,
    "init --text": INPUT,
    "toy config": INPUT,
    "toy --set": "the keys below",
    "runs list folder": INPUT,
    "runs delete run": "only removed from",
    "runs delete variant": NO_PATH,
    "store list root": INPUT,
    "store info store": INPUT,
    "store verify store": INPUT,
    "store spot-check store": INPUT,
    "store spot-check --rows": NO_PATH,
    "store spot-check --seed": NO_PATH,
    "store spot-check --model": INPUT,
    "store slice store": INPUT,
    "store slice out": "OUTPUTS: slice",
    "store slice --site": NO_PATH,
    "store slice --rows": NO_PATH,
    "store slice --encoding": NO_PATH,
    "store slice --compressor": NO_PATH,
    "store shuffle store": INPUT,
    "store shuffle out": "OUTPUTS: shuffle",
    "store shuffle --seed": NO_PATH,
    "store add-sites store": INPUT,
    "store add-sites out": "OUTPUTS: add-sites",
    "store add-sites --site": NO_PATH,
    "store add-sites --config": INPUT,
    "store import source": INPUT,
    "store import out": "OUTPUTS: import",
    "store import --site": NO_PATH,
    "store import --format": NO_PATH,
    "store import --context": NO_PATH,
    "store import --bos": NO_PATH,
    "store import --heldout": NO_PATH,
    "store import --encoding": NO_PATH,
    "store delete store": "only removed from",
    "store push store": INPUT,
    "store push url": "OUTPUTS: push, push file://",
    "store pull url": INPUT,
    "store pull out": "OUTPUTS: pull, pull --rows",
    "store pull --site": NO_PATH,
    "store pull --rows": NO_PATH,
    "store pull --expect": NO_PATH,
}
"""Every argument and option but for flags, and whether something is written under it."""
KEYS = {
    "name": "OUTPUTS: the run folder",
    "store.path": "OUTPUTS: store.path",
    "training.shared_windows": "OUTPUTS: training.shared_windows",
    "model.path": INPUT,
}
"""Every key of one value that takes text; those of the sources of a corpus are read only."""
NO_PATH_KEYS = {
    "model.revision", "model.device", "training.device", "training.sites", "store.sites", "report.title",
    "evaluation.probing.tasks", "evaluation.probing.token_tasks", "tracking.project",
}  # fmt: skip


def parameters(command: Any = None, name: str = "") -> Iterator[str]:
    command = command or typer.main.get_command(app)
    for parameter in command.params:
        if not getattr(parameter, "is_flag", False):
            shown = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.name
            yield f"{name} {shown}".strip()
    for child_name, child in getattr(command, "commands", {}).items():
        yield from parameters(child, f"{name} {child_name}".strip())


def test_every_parameter_is_known() -> None:
    assert set(parameters()) == set(PARAMETERS)


def text_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        types = [field.annotation, *get_args(field.annotation)]
        nested = [part for part in types if isinstance(part, type) and issubclass(part, BaseModel)]
        if nested:
            yield from text_keys(nested[0], f"{prefix}{name}.")
        elif any(re.search(r"\b(str|Path)\b", str(part)) for part in types) and "Literal" not in str(types):
            yield f"{prefix}{name}"


def test_every_key_that_takes_text_is_known() -> None:
    # Under variants: names, numbers, sites, and published SAEs, which are read.
    found = {key for key in text_keys(RunConfig) if key.partition(".")[0] != "variants"}
    unknown = found - set(KEYS) - NO_PATH_KEYS
    assert unknown == set(), "is something written under it? Then it belongs to KEYS and OUTPUTS"
    assert {value.removeprefix("OUTPUTS: ") for value in KEYS.values() if value != INPUT} <= set(OUTPUTS)
    named = {name for value in PARAMETERS.values() if "OUTPUTS" in value for name in value[9:].split(", ")}
    assert named <= set(OUTPUTS)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return store_for_training(tmp_path / "data" / "store", 500)


def tree(store: Path) -> dict[str, Any]:
    """All that can be seen of a folder from outside: names, kinds, modes, times of writing, bytes."""
    found: dict[str, Any] = {}
    for path in [store, *sorted(store.rglob("*"))]:
        status = path.lstat()
        data = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(store))] = (status.st_mode, status.st_mtime_ns, status.st_ino, data)
    return found


class Attempt:
    """A command whose output is somewhere inside `store`."""

    def __init__(self, store: Path, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
        self.store, self.tmp_path, self.patch = store, tmp_path, patch
        patch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
        patch.setenv("no_proxy", "127.0.0.1")
        patch.chdir(tmp_path)

    def strata(self, *arguments: object) -> Result:
        return CliRunner().invoke(app, ["--quiet", *map(str, arguments)])

    def config(self, store_path: Path | None = None, **training: Any) -> Path:
        data = run_data(store_path or self.store, {"a": TOPK}, n_steps=5, **training)
        (self.tmp_path / "run.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
        return self.tmp_path / "run.yaml"

    def in_folder(self, folder: Path, command: str) -> Result:
        config = self.config(store_for_training(self.tmp_path / "another", 500))
        self.patch.chdir(folder)
        return self.strata(command, config)


def run_folder(command: str) -> Callable[[Attempt, Path], Result]:
    """A folder inside the store is the working folder, so `runs/` would be made there."""
    return lambda attempt, path: attempt.in_folder(path, command)


def cached(attempt: Attempt, path: Path) -> Result:
    attempt.patch.setenv("STRATA_CACHE", str(path))
    with serving(LyingServer(attempt.store)) as server:
        return attempt.strata("store", "info", server.url)


def data_root(attempt: Attempt, path: Path) -> Result:
    attempt.patch.setenv("STRATA_DATA", str(path))
    return attempt.strata("extract", attempt.config(), "--set", "store.path=null")


OUTPUTS: dict[str, Callable[[Attempt, Path], Result]] = {
    "init": lambda attempt, path: attempt.strata("init", path),
    "export": lambda attempt, path: attempt.strata("export", "runs/run/a", "--format", "saelens", "--out", path),
    "slice": lambda attempt, path: attempt.strata("store", "slice", attempt.store, path),
    "shuffle": lambda attempt, path: attempt.strata("store", "shuffle", attempt.store, path),
    "add-sites": lambda attempt, path: attempt.strata("store", "add-sites", attempt.store, path, "--site", "x.y"),
    "import": lambda attempt, path: attempt.strata("store", "import", attempt.tmp_path, path),
    "push": lambda attempt, path: attempt.strata("store", "push", attempt.store, path),
    "push file://": lambda attempt, path: attempt.strata("store", "push", attempt.store, path.absolute().as_uri()),
    "pull": lambda attempt, path: attempt.strata("store", "pull", attempt.store, path),
    "pull --rows": lambda attempt, path: attempt.strata("store", "pull", attempt.store, path, "--rows", "0:64"),
    "train --stage": lambda attempt, path: attempt.strata("train", attempt.config(), "--stage", path),
    "store.path": lambda attempt, path: attempt.strata("extract", attempt.config(path)),
    "training.shared_windows": lambda attempt, path: attempt.strata("train", attempt.config(shared_windows=str(path))),
    "push run": lambda attempt, path: attempt.strata("push", "runs/run", path),
    "push run file://": lambda attempt, path: attempt.strata("push", "runs/run", path.absolute().as_uri()),
    "pull run": lambda attempt, path: attempt.strata("pull", attempt.store, path),
    "the run folder": run_folder("train"),
    "the run folder alone": lambda attempt, path: attempt.strata("report", path),
    "the run folder of run": run_folder("run"),
    "the run folder of evaluate": run_folder("evaluate"),
    "the run folder of report": run_folder("report"),
    "the run folder of track": run_folder("track"),
    "the run folder of codes": lambda attempt, path: attempt.strata("codes", path),
    "the run folder of analyze": lambda attempt, path: attempt.strata("analyze", path, "pairs"),
    "analyze --out": lambda attempt, path: attempt.strata("analyze", "runs/run", "pairs", "--out", path),
    "explore --export": lambda attempt, path: attempt.strata("explore", "runs/run", "--export", path),
    "prompt --out": lambda attempt, path: attempt.strata("prompt", "runs/run", "a text", "--out", path),
    "the run folder of track RUN": lambda attempt, path: attempt.strata("track", path),
    "STRATA_CACHE": cached,
    "STRATA_DATA": data_root,
}
MAKES_A_FOLDER_FIRST = {name for name in OUTPUTS if name.startswith("the run folder")}
IS_BAD_INPUT = set(OUTPUTS) - {"STRATA_CACHE"}
"""Exit code 2; the variable is met by the library, late."""


def link(store: Path) -> Path:
    (store.parents[1] / "link").symlink_to(store)
    return store.parents[1] / "link" / "inside"


WHERE: dict[str, Callable[[Path], Path]] = {
    "inside": lambda store: store / "inside",
    "deep inside": lambda store: store / "activations.zarr" / "a" / "b",
    "by way of ..": lambda store: store / ".." / store.name / "timings" / ".." / "inside",
    "by way of a link": link,
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_inside_a_store_is_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, where: str
) -> None:
    attempt, path = Attempt(store, tmp_path, monkeypatch), WHERE[where](store)
    if output in MAKES_A_FOLDER_FIRST:
        path.mkdir(parents=True)
    before = tree(store)
    result = OUTPUTS[output](attempt, path)
    assert result.exit_code == (2 if output in IS_BAD_INPUT else 1), result.output
    assert "lies inside the store" in result.output
    assert len(result.output.splitlines()) == 1
    assert tree(store) == before


@pytest.mark.parametrize("output", ["train --stage", "training.shared_windows", "STRATA_CACHE"])
def test_what_is_no_store_may_not_be_one_either(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    before = tree(store)
    result = OUTPUTS[output](Attempt(store, tmp_path, monkeypatch), store)
    assert result.exit_code in (1, 2)
    assert "is the store" in result.output
    assert tree(store) == before


@pytest.mark.parametrize("output", ["slice", "shuffle", "push", "pull"])
def test_control_without_the_refusal_the_store_cannot_be_opened_any_more(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.setattr(folders, "_is_store", lambda folder: False)
    assert OUTPUTS[output](Attempt(store, tmp_path, monkeypatch), store / "inside").exit_code == 0
    assert any("does not belong to this store" in problem for problem in verify(store))


READERS: dict[str, Callable[[Attempt], Result]] = {
    "info": lambda attempt: attempt.strata("store", "info", attempt.store),
    "verify": lambda attempt: attempt.strata("store", "verify", attempt.store),
    "verify --deep": lambda attempt: attempt.strata("store", "verify", attempt.store, "--deep"),
    "list": lambda attempt: attempt.strata("store", "list", attempt.store.parent),
    "train, evaluate, codes, report": lambda attempt: trained(attempt),
    "train --stage": lambda attempt: attempt.strata("train", attempt.config(), "--stage", attempt.tmp_path / "near"),
    "slice": lambda attempt: attempt.strata("store", "slice", attempt.store, attempt.tmp_path / "out"),
    "shuffle": lambda attempt: attempt.strata("store", "shuffle", attempt.store, attempt.tmp_path / "out"),
    "push": lambda attempt: attempt.strata("store", "push", attempt.store, attempt.tmp_path / "out"),
    "push onto itself": lambda attempt: attempt.strata("store", "push", attempt.store, attempt.store),
    "pull": lambda attempt: attempt.strata("store", "pull", attempt.store, attempt.tmp_path / "out"),
    "pull onto itself": lambda attempt: attempt.strata("store", "pull", attempt.store, attempt.store),
    "slice onto itself": lambda attempt: attempt.strata("store", "slice", attempt.store, attempt.store),
    "shuffle onto itself": lambda attempt: attempt.strata("store", "shuffle", attempt.store, attempt.store),
}
REFUSED = {"slice onto itself", "shuffle onto itself"}


def trained(attempt: Attempt) -> Result:
    config = attempt.config()
    for command in ("train", "evaluate"):
        assert attempt.strata(command, config).exit_code == 0
    assert attempt.strata("codes", "runs/run").exit_code == 0
    return attempt.strata("report", config)


@pytest.mark.parametrize("reader", READERS)
def test_reading_leaves_a_store_as_it_is(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    if (store / "staging").exists():  # as in a store that was pulled or copied
        (store / "staging").rmdir()
    attempt = Attempt(store, tmp_path, monkeypatch)
    before = tree(store)
    result = READERS[reader](attempt)
    assert (result.exit_code == 0) == (reader not in REFUSED), result.output
    assert tree(store) == before


def test_a_plan_of_somebody_else_is_no_store(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "plan.json").write_text(json.dumps({"our": "plan"}), encoding="utf-8")
    attempt = Attempt(store, tmp_path, monkeypatch)
    assert attempt.strata("store", "slice", store, project / "data" / "out").exit_code == 0
    assert ActivationStore.open(project / "data" / "out").plan.sites == {SITE: 16}
    assert os.listdir(project) == ["plan.json", "data"] or sorted(os.listdir(project)) == ["data", "plan.json"]
