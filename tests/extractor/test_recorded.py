"""What a store's records say, and what they must not: no token, no user name, no home path."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strata_sae.pipeline.config.run import differences, impersonal, recorded
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.extract import extract
from strata_sae.stores import ActivationStore, read_plan
from support.extraction import extraction_config

SECRET, USER = "hf_qOvSecretTokenOfSomebody", "jane.q.researcher"


def home_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_tokens: int = 600) -> tuple[Path, Any]:
    """A config whose model and text lie in the home folder of USER; the store lies elsewhere."""
    home = tmp_path / "home" / USER
    home.mkdir(parents=True, exist_ok=True)
    for name, value in {"HOME": str(home), "USER": USER, "LOGNAME": USER, "HF_TOKEN": SECRET}.items():
        monkeypatch.setenv(name, value)
    config = extraction_config(home, corpus={"n_tokens": n_tokens}, store={"path": str(tmp_path / "store")})
    return home, config


def test_no_record_holds_a_secret_or_whose_machine_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, config = home_config(tmp_path, monkeypatch)
    extract(config, show_progress=False)
    store = tmp_path / "store"
    files = [path for path in store.rglob("*") if path.is_file()]
    assert {"plan.json", "MANIFEST.json", "token_bytes.json", "000000.json", "zarr.json"} <= {p.name for p in files}
    assert any(path.parent.name == "timings" for path in files)
    assert read_plan(store).provenance["runner"]["packages"]["numpy"] == np.__version__
    forbidden = [SECRET, USER, str(home), str(tmp_path)]
    for path in files:
        for text in forbidden:
            assert text.encode() not in path.read_bytes(), f"{path.relative_to(store)} holds {text}"
            assert text not in str(path.relative_to(store))
    # The control: the config that the run was given does hold them.
    assert USER in str(config.extraction())
    assert str(home) in str(config.extraction())


def test_the_same_paths_are_the_same_config_and_others_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, config = home_config(tmp_path, monkeypatch)
    extract(config, show_progress=False)
    store_id = ActivationStore.open(tmp_path / "store").id
    extract(config, show_progress=False)
    assert ActivationStore.open(tmp_path / "store").id == store_id
    shutil.copytree(home / "text", home / "other")
    other = extraction_config(
        home,
        corpus={"n_tokens": 600, "sources": [{"kind": "text", "paths": [str(home / "other" / "*.txt")]}]},
        store={"path": str(tmp_path / "store")},
    )
    with pytest.raises(ConfigError, match=r"corpus\.sources: was .*\*\.txt#") as error:
        extract(other, show_progress=False)
    assert "another config" in str(error.value)


def test_a_store_that_recorded_whole_paths_is_still_its_configs_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, config = home_config(tmp_path, monkeypatch)
    assert differences(config.extraction(), config.extraction()) == []
    assert differences(recorded(config.extraction()), config.extraction()) == []
    assert recorded(recorded(config.extraction())) == recorded(config.extraction())


def test_only_paths_that_name_a_machine_are_replaced() -> None:
    for kept in ("demo", "openai-community/gpt2", "models/llama", "text/*.txt", "~/text/*.txt", "../text"):
        assert impersonal(kept) == kept
    assert impersonal("/home/jane/text/*.txt").startswith("*.txt#")
    assert impersonal("~jane/text").startswith("text#")
    assert impersonal("/home/jane/text") != impersonal("/home/john/text")


def test_a_dataset_folder_is_recorded_by_name(tmp_path: Path) -> None:
    source = {"kind": "dataset", "path": "/scratch/jane/dataset", "column": "text"}
    config = extraction_config(tmp_path, corpus={"sources": [source]})
    assert recorded(config.extraction())["corpus"]["sources"][0]["path"].startswith("dataset#")
