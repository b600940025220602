"""What is stored already is not extracted again, and nothing but the very same is taken for it."""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import strata_sae.pipeline.extractor.extract as reuse
import strata_sae.pipeline.extractor.filling as stage
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.extractor.extract import describe_plan, extract
from strata_sae.pipeline.language_model.identity import software
from strata_sae.pipeline.reading.which_store import find_store, open_store
from strata_sae.pipeline.trainer.train import train
from strata_sae.stores import ActivationStore
from strata_sae.stores.deriving.shuffle import shuffle_store
from strata_sae.stores.deriving.slice import slice_store
from support.extraction import SITES, extraction_config

SITE = SITES[0]
Make = Callable[..., RunConfig]


def config_in(folder: Path, name: str, store: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    """A run whose store has no path of its own, of the model and text in `folder`."""
    seed = changes.pop("seed", 0)
    changes["corpus"] = {"n_tokens": 600} | changes.get("corpus", {})
    config = extraction_config(folder, store={"path": None} | (store or {}), **changes)
    return config.model_copy(update={"name": name, "seed": seed})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a model, text, and the store of the run `first`, extracted once."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRATA_DATA", str(folder / "data"))
        extract(config_in(folder, "first"), show_progress=False)
        yield folder


@pytest.fixture
def run(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Builds configs whose stores lie in the test's own folder, beside a copy of that store."""
    shutil.copytree(shared / "data", tmp_path / "data")
    monkeypatch.setenv("STRATA_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return partial(config_in, shared)


@pytest.fixture
def first(run: Make) -> RunConfig:
    return run("first")


def test_a_store_that_holds_the_same_is_used(
    run: Make, first: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(stage, "load", lambda *_: pytest.fail("the model was loaded"))
    fewer = run("second", {"sites": [SITE], "shard_bytes": 32768})
    assert "nothing is extracted" in describe_plan(fewer, show_progress=False)
    extract(fewer, show_progress=False)
    assert "first: finished, and holds all that this run asks for" in caplog.text
    assert not fewer.store_path().exists()
    assert find_store(fewer) == first.store_path()


def test_a_run_trains_on_its_own_sites_of_a_larger_store(run: Make, first: RunConfig) -> None:
    fewer = run("second", {"sites": [SITE]})
    train(fewer, show_progress=False)
    (record,) = Path("runs/second/variants").glob("*/config.json")
    found = json.loads(record.read_text())
    assert (found["site"], found["store_id"]) == (SITE, ActivationStore.open(first.store_path()).id)


@pytest.mark.parametrize(
    ("store", "changes"),
    [
        ({}, {"seed": 1}),
        ({}, {"corpus": {"n_tokens": 599}}),
        ({}, {"corpus": {"heldout_fraction": 0.2}}),
        ({}, {"model": {"batch_tokens": 64}}),
        ({"encoding": "bfloat16"}, {}),
        ({"compressor": "zstd"}, {}),
        ({"chunk_bytes": 8192}, {}),
        ({"sites": [*SITES, "blocks.1.hook_resid_post"]}, {}),
        ({"path": "elsewhere"}, {}),
    ],
    ids=str,
)
def test_a_store_of_anything_else_is_not_used(
    run: Make, first: RunConfig, store: dict[str, Any], changes: dict[str, Any]
) -> None:
    other = run("second", store, **changes)
    assert find_store(other) == other.store_path()
    assert find_store(run("second")) == first.store_path(), "control: unchanged, it is"


@pytest.mark.parametrize("damage", ["unfinished", "truncated", "plan", "rows", "shuffle", "slice of another encoding"])
def test_a_store_that_is_not_whole_is_not_used(run: Make, first: RunConfig, tmp_path: Path, damage: str) -> None:
    path, config = first.store_path(), run("second")
    assert find_store(config) == path
    if damage in ("rows", "shuffle", "slice of another encoding"):
        parent = ActivationStore.open(path)
        if damage == "rows":
            slice_store(parent, path.with_name("part"), rows=(0, 300))
        elif damage == "shuffle":
            shuffle_store(parent, path.with_name("part"), seed=0)
        else:
            config = run("second", {"encoding": "bfloat16"})
            slice_store(parent, path.with_name("part"), encoding="bfloat16")
        path.rename(tmp_path / "away")
    elif damage == "unfinished":
        (path / "MANIFEST.json").unlink()
    else:
        files = sorted(file for file in path.rglob("c/*/0") if file.is_file())
        file = path / "plan.json" if damage == "plan" else files[0]
        file.chmod(0o644)
        file.write_bytes(file.read_bytes()[:-1])
    assert find_store(config) == config.store_path()


def test_a_whole_slice_is_as_good(run: Make, first: RunConfig, tmp_path: Path) -> None:
    parent = ActivationStore.open(first.store_path())
    copy = slice_store(parent, first.store_path().with_name("copy"), compressor="zstd")
    first.store_path().rename(tmp_path / "away")
    assert find_store(run("second", {"compressor": "zstd"})) == copy.path
    assert find_store(run("second")) != copy.path


def test_its_own_store_comes_first_and_then_the_one_it_trained_on(run: Make, first: RunConfig) -> None:
    second = run("second")
    train(second, show_progress=False)
    earlier = slice_store(ActivationStore.open(first.store_path()), first.store_path().with_name("a copy"))
    assert find_store(second) == first.store_path(), "a store that came later does not take over"
    assert find_store(run("third")) == earlier.path, "control: a run that has not begun takes the first by name"
    assert find_store(first) == first.store_path()


@pytest.mark.parametrize("changed", ["config.json", "software"])
def test_a_model_that_changed_since_is_extracted_again(
    run: Make, shared: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, changed: str
) -> None:
    caplog.set_level("INFO")
    second = run("second")
    file = Path(second.model.path) / "config.json"
    before = file.read_bytes()
    try:
        if changed == "software":
            monkeypatch.setattr(reuse, "software", lambda: {**software(), "torch": "0.1"})
        else:
            file.write_bytes(before + b"\n")
        extract(second, show_progress=False)
    finally:
        file.write_bytes(before)
    assert f"from other inputs: {'model.path: ' if changed == 'config.json' else ''}{changed}" in caplog.text
    assert find_store(second) == second.store_path()
    assert open_store(second).path == second.store_path()
