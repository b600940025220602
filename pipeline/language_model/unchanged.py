"""Whether a model is still the one that a plan recorded: from its files alone, nothing is loaded or downloaded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.input_files import Comparison, compare_commit, compare_file
from strata_sae.pipeline.language_model.gguf import demo_gguf
from strata_sae.pipeline.language_model.identity import code_files, tokenizer_files, tokenizer_identity, weight_files
from strata_sae.pipeline.language_model.loading import tokenizer_from
from strata_sae.pipeline.settings import ModelSettings


def compare_model(settings: ModelSettings, recorded: dict[str, Any]) -> Comparison:
    """Weights, config and tokenizer as they are now beside what `describe` recorded of them.

    A file that was read and is not there can have been replaced by nothing: it is not compared.
    """
    try:
        return Comparison.of(_parts(settings, recorded)).under("model.path")
    except ConfigError as error:
        return Comparison(unknown=(str(error),))


def _parts(settings: ModelSettings, recorded: dict[str, Any]) -> Iterator[Comparison]:
    folder = Path(settings.path).expanduser()
    if settings.path == "demo" or folder.suffix == ".gguf":
        file = demo_gguf() if settings.path == "demo" else folder
        yield compare_file(file.name, recorded["gguf_sha256"], file)
    elif folder.is_dir():
        yield from _folder(folder, settings, recorded)
    elif recorded["revision"] is None:
        yield Comparison(unknown=(f"there is no folder {folder.name}",))
    else:
        yield compare_commit("model", settings.path, settings.revision, recorded["revision"])


def _folder(folder: Path, settings: ModelSettings, recorded: dict[str, Any]) -> Iterator[Comparison]:
    weights = {path.name: path for path in weight_files(folder)} if _has_weights(folder) else {}
    yield from _files(folder, recorded["weight_files_sha256"], weights)
    yield compare_file("config.json", recorded["config_sha256"], folder / "config.json")
    if "code_files_sha256" in recorded:
        yield from _files(folder, recorded["code_files_sha256"], {path.name: path for path in code_files(folder)})
    tokenizer = recorded["tokenizer"]
    if "tokenizer_files_sha256" in tokenizer:
        now = {path.name: path for path in tokenizer_files(folder)}
        yield from _files(folder, tokenizer["tokenizer_files_sha256"], now)
    elif now := {path.name: path for path in tokenizer_files(folder)}:  # a plan of before these were recorded
        found = tokenizer_identity(folder, tokenizer_from(folder, settings))
        changed = (key for key, value in tokenizer.items() if found[key] != value)
        yield Comparison(tuple(f"tokenizer.{key}: was {tokenizer[key]}, is {found[key]}" for key in changed))


def _files(folder: Path, recorded: dict[str, str], now: dict[str, Path]) -> Iterator[Comparison]:
    for name in sorted(recorded.keys() | now.keys()):
        yield compare_file(name, recorded.get(name), now.get(name, folder / name))


def _has_weights(folder: Path) -> bool:
    try:
        return bool(weight_files(folder))
    except ConfigError:  # none, or not all: each that was recorded is looked at by its name
        return False
