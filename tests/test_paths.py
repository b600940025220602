"""Paths mean the same in every key, flag and variable: `~` is the home folder, relative is of the working folder."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints
from unittest.mock import patch

import pytest
import torch

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config import RunConfig, dump
from strata_sae.pipeline.config.corpus import HubDataset, JsonLines, Parquet, TextFiles
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents import read_documents
from strata_sae.pipeline.formats import FORMATS
from strata_sae.pipeline.imports.saes import import_saes
from strata_sae.pipeline.language_model.folder import model_folder
from strata_sae.pipeline.paths import DATA_ROOT, data_root, place_reader_of
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.pipeline.trainer.train import train
from strata_sae.stores.format.folders import cache_root
from support import fake_format
from support.command_tree import callbacks
from support.schema_leaves import leaves, options
from support.small_run import RELU, SITE, run_data
from support.small_store import build_store
from support.tiny_models import save_tiny_model

ROOT = Path(__file__).parents[1]
NAMES = ["plain", "with space", "ünïcode ✓", "[brackets]", "#hash %41 ?", "-dash"]

# ---- keys of a config


def store_path(text: str, where: Path) -> None:
    assert Path(os.path.abspath(config(text).store_path())) == where


def shared_windows(text: str, where: Path) -> None:
    build_store(Path("the store"), 2000)
    train(config("the store", n_steps=1, shared_windows=text), show_progress=False)
    assert where.is_dir()


def model_path(text: str, where: Path) -> None:
    save_tiny_model(where, "llama")
    assert Path(os.path.abspath(model_folder(ModelSettings(path=text)).path)) == where


def text_files(text: str, where: Path) -> None:
    where.write_text("some text")
    assert read(TextFiles(kind="text", paths=[text])) == ["some text"]


def json_lines(text: str, where: Path) -> None:
    where.write_text('{"text": "some text"}\n')
    assert read(JsonLines(kind="jsonl", paths=[text])) == ["some text"]


def parquet(text: str, where: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["some text"]}), where)
    assert read(Parquet(kind="parquet", paths=[text])) == ["some text"]


def dataset(text: str, where: Path) -> None:
    where.mkdir()
    (where / "train.jsonl").write_text('{"text": "some text"}\n')
    assert read(HubDataset(kind="dataset", path=text)) == ["some text"]


def imported_sae(text: str, where: Path) -> None:
    build_store(Path("the store"), 200, {SITE: 16})
    zeros = {"b_enc": torch.zeros(8), "b_dec": torch.zeros(16)}
    weights = {"W_enc": torch.zeros(8, 16), "W_dec": torch.zeros(8, 16), **zeros}
    fake_format.write(where, {"architecture": "relu", "d_sae": 8}, weights, site=SITE)
    data = run_data(Path("the store"), {"theirs": {"from": {"format": fake_format.NAME, "path": text}}}, n_steps=1)
    with patch.dict(FORMATS, {fake_format.NAME: fake_format.FAKE}):
        import_saes(TrainConfig.model_validate(data))
    assert Path(f"runs/run/variants/theirs@{SITE}/training.json").is_file()


NAMES_NO_FILE = {"variants.v.site", "variants.v.writes", "corpus.sources.0.separator TextFiles"}
"""Keys that speak of files and name none."""
KEYS: dict[str, Callable[[str, Path], None]] = {
    "store.path": store_path,
    "training.shared_windows": shared_windows,
    "model.path": model_path,
    "corpus.sources.0.paths.0 TextFiles": text_files,
    "corpus.sources.0.paths.0 JsonLines": json_lines,
    "corpus.sources.0.paths.0 Parquet": parquet,
    "corpus.sources.0.path HubDataset": dataset,
    "variants.v.from_.path": imported_sae,
}


def read(source: Any) -> list[Any]:
    return [document.text for document in read_documents(source)]


def config(store: str, **training: Any) -> RunConfig:
    return RunConfig.model_validate(run_data(Path(store), {"relu": RELU}, **{"warmup_steps": 0, **training}))


def in_schema() -> set[str]:
    """Keys that are called a path, or say that they name files or folders."""
    found = set()
    for leaf in leaves(str):
        words = f"{leaf.key} {leaf.description}".lower()
        if "path" in leaf.key or "folder" in words or "file" in words:
            found.add(f"{leaf.key} {leaf.settings.__name__}" if leaf.key.startswith("corpus") else leaf.key)
    return found


def test_every_path_in_the_schema_is_tried() -> None:
    assert in_schema() == KEYS.keys() | NAMES_NO_FILE


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder, and another one to work in."""
    (home := tmp_path / "home").mkdir()
    (work := tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv(DATA_ROOT, raising=False)
    monkeypatch.chdir(work)
    yield home
    assert not list(work.rglob("~*")), "a folder that is called ~"


@pytest.mark.parametrize("begins", ["~/", "", "./", "../", "{home}/"], ids=["home", "name", "dot", "up", "root"])
@pytest.mark.parametrize("key", KEYS)
def test_a_key_reads_paths_as_every_other(key: str, begins: str, home: Path) -> None:
    folder = {"~/": home, "{home}/": home, "../": Path.cwd().parent}.get(begins, Path.cwd())
    KEYS[key](begins.format(home=home) + "a name", folder / "a name")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", [key for key in KEYS if key not in ("training.shared_windows", "model.path")])
def test_a_key_takes_any_name(key: str, name: str, home: Path) -> None:
    KEYS[key](f"~/{name}", home / name)


@pytest.mark.parametrize("key", ["store.path", "model.path", "training.shared_windows"])
@pytest.mark.parametrize(("text", "said"), [("~nobody-of-that-name/x", "home directory"), ("a\0b", "NUL")])
def test_what_can_be_no_path_is_refused_by_key(key: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        KEYS[key](text, Path("x"))
    assert key in str(refused.value)


# ---- variables


@pytest.mark.parametrize("begins", ["~/", "", "{home}/"])
def test_variables_read_paths_as_keys_do(monkeypatch: pytest.MonkeyPatch, begins: str, home: Path) -> None:
    text, folder = begins.format(home=home) + "a name", home if begins else Path()
    for variable, root in ((DATA_ROOT, data_root), ("STRATA_CACHE", cache_root)):
        monkeypatch.setenv(variable, text)
        assert root() == folder / "a name"
    monkeypatch.delenv("STRATA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", text)
    assert cache_root() == folder / "a name" / "strata"


def test_a_data_root_that_is_a_file_is_refused_and_an_empty_one_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").touch()
    monkeypatch.setenv(DATA_ROOT, "file")
    with pytest.raises(ConfigError, match="STRATA_DATA: 'file' is a file"):
        data_root()
    monkeypatch.setenv(DATA_ROOT, "")
    assert data_root() == Path("data")


# ---- arguments and options of commands

NO_PATHS = {
    "overrides", "only", "log_level", "site", "rows", "encoding", "compressor", "expect", "variant", "model", "format",
    "what", "text", "clamp", "steer",
}  # fmt: skip
"""Text that names no file, and `init --model`, which is a path or a hub id, as `model.path`."""


def readers() -> list[Any]:
    """How each argument and option that takes text or a path reads it; None: as it stands."""
    found = []
    for path, callback in callbacks(app):
        for name, hint in get_type_hints(callback, include_extras=True).items():
            for option in options(hint.__origin__) if hasattr(hint, "__metadata__") else ():
                if (get_args(option) or (option,))[0] in (str, Path) and name not in NO_PATHS:
                    found.append(pytest.param(hint.__metadata__[0].parser, id=f"{path} {name}"))
    return found


@pytest.mark.parametrize("reads", readers())
@pytest.mark.parametrize("name", ["a name", "ünïcode", os.fsdecode(b"not UTF-8 \xff")])
def test_every_path_of_the_command_line_is_read_alike(reads: Callable[[str], Any], name: str, home: Path) -> None:
    """A parameter that takes text names a path, or stands in NO_PATHS."""
    for text, wanted in ((f"~/{name}", home / name), (name, Path(name)), (f"../{name}", Path("..", name))):
        assert Path(reads(text)) == wanted
    with pytest.raises(ConfigError, match="home directory"):
        reads("~nobody-of-that-name/x")


@pytest.mark.parametrize("url", ["s3://bucket/~/a", "https://a/b", "hf://datasets/a/b"])
def test_a_url_is_no_path(url: str) -> None:
    assert place_reader_of("URL")(url) == url


def test_the_walk_finds_what_is_there() -> None:
    assert {str(reader.id) for reader in readers()} >= {"train add", "store list_ root", "store add_sites config"}


def strata(*arguments: str | bytes, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, ROOT / "run_pipeline.py", *arguments], capture_output=True, env=os.environ | environment
    )


def test_home_is_found_in_an_override_a_quoted_argument_and_a_variable(home: Path) -> None:
    """Where no shell expands it."""
    build_store(home / "stores" / "s", 1000)
    (home / "c.yaml").write_text(dump(config("elsewhere", n_steps=1)))
    assert b"1,000" in strata("store", "list", STRATA_DATA="~/stores").stdout
    done = strata("train", "~/c.yaml", "--set", "store.path=~/stores/s", "--stage", "~/near", PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert (home / "near").is_dir()
    assert Path(f"runs/run/variants/relu@{SITE}/weights.safetensors").is_file()


def test_a_name_that_is_no_utf8_works_and_can_be_printed(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff"
    build_store(Path(os.fsdecode(name)), 1000)
    cut = name + b" cut"
    done = strata("--quiet", "store", "slice", name, cut, "--rows", "0:500", LC_ALL="C.UTF-8")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"udcff cut: finished" in done.stdout
    missing = strata("store", "info", name + b" nowhere")
    assert (missing.returncode, b"Traceback" in missing.stderr) == (1, False)
