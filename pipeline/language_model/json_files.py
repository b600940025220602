"""The JSON files of a model's folder, which may come from anybody: read with bounds before transformers reads them."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from strata_sae.pipeline.errors import ConfigError
from strata_sae.stores import StoreError
from strata_sae.stores.files.canonical import parse_json

_MAX_BYTES = 256 * 2**20
"""An index of a million tensors takes 100 MB."""
_MAX_LAYERS = 1_000
"""The deepest transformer published has 1,000 layers; each costs some milliseconds to plan."""
_MAX_EXPERTS = 10_000
_COUNTS = {
    re.compile(r"(^|_)(layers?|blocks|depth)$"): _MAX_LAYERS,
    re.compile(r"experts$"): _MAX_EXPERTS,
}


def check_config(path: Path) -> None:
    """Look at config.json before transformers does.

    Raises: ConfigError where it is no object, counts more layers or experts than a model has, or names weights of its
        own, which no plan would hash.
    """
    content = _object(path)
    for key, value in _numbers(content):
        limit = next((limit for pattern, limit in _COUNTS.items() if pattern.search(key)), None)
        if limit is not None and value > limit:
            raise ConfigError(f"model.path: {path}: {key} is {value:,}; at most {limit:,} are read. Is this a model?")
    if content.get("transformers_weights") is not None:
        raise ConfigError(
            f"model.path: {path}: transformers_weights names a weight file of its own, and a plan records the usual "
            f"ones; name the file model.safetensors and remove the key"
        )


def shards_of(index: Path) -> list[str]:
    """Names of the weight files that an index lists, sorted, each a plain name inside the folder.

    Raises: ConfigError if it is no such index, or names a file elsewhere.
    """
    weights = _object(index).get("weight_map")
    if not isinstance(weights, dict) or not weights or not all(isinstance(name, str) for name in weights.values()):
        raise ConfigError(
            f"model.path: {index} is not an index of weight files: weight_map must be an object of tensor names and "
            f"file names"
        )
    names = sorted(set(weights.values()))
    for name in names:
        if not name or PurePosixPath(name).name != name or name == ".." or "\\" in name or "\0" in name:
            raise ConfigError(
                f"model.path: {index} names the file {name[:80]!a}, which is not a plain name of a file beside it; "
                f"put the file there, and its name into weight_map"
            )
    return names


def _object(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        content = parse_json(data, path, _MAX_BYTES, constants=True)
    except OSError as error:
        raise ConfigError(f"model.path: {path}: cannot read it: {error.strerror}") from error
    except StoreError as error:
        raise ConfigError(f"model.path: cannot read {path.name}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"model.path: cannot read {path.name}: {path} holds a {type(content).__name__}, not an object"
        )
    return content


def _numbers(content: Any) -> Iterator[tuple[str, int]]:
    """(key, value) of every integer under a key, at any depth."""
    for key, value in content.items() if isinstance(content, dict) else []:
        if type(value) is int:
            yield key, value
        elif isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, list):
            yield from ((key, item) for item in value if type(item) is int)
            for item in value:
                yield from _numbers(item)
