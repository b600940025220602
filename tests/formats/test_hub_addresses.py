"""Foreign SAEs on the hub, through the hub's own client: only an SAE's files are fetched, and errors say what to do."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import huggingface_hub.constants
import pytest

import strata_sae as strata
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.formats.hub import Address, address_of
from strata_sae.pipeline.formats.reading import read_foreign
from strata_sae.pipeline.runs.loaded import ForeignSAE
from support.fake_model_hub import TOKEN, ModelHub, serving_models
from support.foreign_folders import write_folder

REPOSITORY = "somebody/gemma-scope-2b-pt-res"
FOLDER = "layer_20/width_16k/average_l0_71"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    """A repository with a Gemma Scope SAE in one folder and a dictionary_learning one in another."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False, "HF_HUB_CACHE": "cache"}.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    tree = {"README.md": b"# SAEs", f"{FOLDER}/huge.bin": bytes(10)}
    for format, folder in {"gemma_scope": FOLDER, "dictionary_learning": "dl"}.items():
        write_folder(format, tmp_path / "made" / format)
        tree |= {f"{folder}/{path.name}": path.read_bytes() for path in (tmp_path / "made" / format).iterdir()}
    with serving_models() as server:
        server.commits[REPOSITORY] = [{"README.md": b"empty"}, tree]
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_a_folder_of_the_hub_is_read_and_nothing_else_is_fetched(hub: ModelHub, tmp_path: Path) -> None:
    found = strata.load(f"hf://{REPOSITORY}/{FOLDER}")
    assert isinstance(found, ForeignSAE)
    source = found.source
    assert (source.path, source.format) == (f"hf://{REPOSITORY}/{FOLDER}", "gemma_scope")
    assert (source.site, source.model) == ("blocks.20.hook_resid_post", "google/gemma-2-2b")
    assert source.facts["hub_commit"] == f"{1:040d}"
    fetched = {path.name for path in (tmp_path / "cache").rglob("*") if "snapshots" in path.parts and path.is_file()}
    assert fetched == {"params.npz"}
    assert read_foreign(f"{REPOSITORY}/dl", None).source.format == "dictionary_learning"
    assert read_foreign(f"{REPOSITORY}/dl", "dictionary_learning").source.path == f"hf://{REPOSITORY}/dl"
    assert TOKEN not in str(source)


def test_what_was_fetched_is_read_without_a_network(hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"hf://{REPOSITORY}@{1:040d}/dl"
    before = read_foreign(address, None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert read_foreign(address, None).source == before.source
    with pytest.raises(ConfigError, match="is not in the hub's cache, and HF_HUB_OFFLINE is set"):
        read_foreign("hf://somebody/else/dl", None)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://nobody/nothing", "there is no such repository or revision, or this account may not see it"),
        (f"hf://{REPOSITORY}@other/dl", "there is no such repository or revision"),
        (f"hf://{REPOSITORY}/nothing", "there is no such folder, or none of the files in it"),
        (f"hf://{REPOSITORY}@{0:040d}/dl", "there is no such folder, or none of the files in it"),
        (f"hf://{REPOSITORY}", "there is no such folder, or none of the files in it"),
    ],
)
def test_what_the_hub_does_not_have_is_said_in_one_line(hub: ModelHub, address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as said:
        strata.load(address)
    assert str(said.value).isprintable()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (f"hf://datasets/{REPOSITORY}", "is no folder of a model repository; write hf://<owner>"),
        (f"hf://{REPOSITORY}/../dl", "is no folder of a model repository"),
        (f"hf://{REPOSITORY}/*", "is no folder of a model repository"),
        ("hf://x", "is no folder of a model repository"),
        ("https://example.com/x", "there is no such folder or file"),
        ("here/nothing/dl", "there is no such folder or file"),
        ("here", "holds no SAE of a known format .saelens: cfg.json and sae_weights.safetensors; "),
        ("here/nothing@blocks.8", "no trained SAE; give the folder of a variant"),
    ],
)
def test_what_is_no_folder_is_said_in_one_line(
    address: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(ConfigError, match=message) as said:
        strata.load(address)
    assert str(said.value).isprintable()


def test_a_hub_that_refuses(hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises((CheckpointError, ConfigError)) as said:
        read_foreign(f"hf://{REPOSITORY}/dl", None)
    assert str(said.value).isprintable()
    assert "hf_wrong" not in str(said.value)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="is not in the hub's cache, and the hub cannot be reached"):
        read_foreign(f"hf://{REPOSITORY}/dl", None)


def test_without_the_hubs_package(monkeypatch: pytest.MonkeyPatch) -> None:
    no_module: ModuleType | None = None
    monkeypatch.setitem(sys.modules, "huggingface_hub", no_module)
    with pytest.raises(ConfigError, match="needs huggingface_hub, which is not installed; pip install 'strata-sae"):
        read_foreign("hf://somebody/saes", None)


def test_ids_and_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert address_of("a/b/c/d") == Address("a/b", None, "c/d")
    assert address_of("hf://a/b@v1.0/c") == Address("a/b", "v1.0", "c")
    assert address_of("hf://a/b/topk@blocks.8") == Address("a/b", None, "topk@blocks.8")
    assert str(address_of("hf://a/b@v1.0/c/")) == "hf://a/b@v1.0/c"
    for text in ("a", "/a/b", "a/b/../c", "a/b/./c", "~/a/b", "a//b", "runs/demo/topk@blocks.8.hook_resid_post"):
        assert address_of(text) is None, text
    (tmp_path / "a").mkdir()
    assert address_of("a/b/c") is None
