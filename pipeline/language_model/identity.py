"""What a model's files are: their names, checked, and their hashes, the same for the same files on any machine."""

import hashlib
import json
import platform
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path, PurePosixPath

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.input_files import file_sha256
from strata_sae.pipeline.language_model.transformers_library import Tokenizer
from strata_sae.stores import StoreError
from strata_sae.stores.files.canonical import Json, parse_json

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model")
_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")


def _combined(digests: dict[str, str]) -> str:
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads the weights from: safetensors before pickles, an index before a single file.

    Raises: ConfigError if there are none, or a shard is missing.
    """
    for single in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{single}.index.json"
        if (folder / single).is_file():
            return [folder / single]
        if index.is_file():
            shards = shards_of(index)
            missing = [shard for shard in shards if not (folder / shard).is_file()]
            if missing:
                raise ConfigError(
                    f"model.path: {folder} lacks {', '.join(missing)}, named in {index.name}; copy it there"
                )
            return [folder / shard for shard in shards]
    raise ConfigError(
        f"model.path: {folder} holds no weights; expected model.safetensors (or its shards and index), "
        f"or pytorch_model.bin"
    )


def of_weights(folder: Path, *, with_code: bool) -> dict[str, Json]:
    """sha256 of every weight file, of all of them together, of config.json, and of the code where it is run."""
    digests = {path.name: file_sha256(path) for path in weight_files(folder)}
    identity: dict[str, Json] = {
        "weights_sha256": _combined(digests),
        "weight_files_sha256": {**digests},
        "config_sha256": file_sha256(folder / "config.json"),
    }
    if with_code:
        identity["code_files_sha256"] = {path.name: file_sha256(path) for path in code_files(folder)}
    return identity


def code_files(folder: Path) -> list[Path]:
    """The Python files that a model folder carries, which `trust_remote_code` runs."""
    return sorted(folder.glob("*.py"))


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that decide how text becomes tokens, those that are there."""
    return [folder / name for name in (*_TOKENIZER_FILES, *_TOKENIZER_SETTINGS) if (folder / name).is_file()]


def of_tokenizer(folder: Path, tokenizer: Tokenizer) -> dict[str, Json]:
    """sha256 of the vocabulary and of the chat template, and the ids that begin and end a text (null: it has none)."""
    names = _TOKENIZER_FILES[:1] if (folder / _TOKENIZER_FILES[0]).is_file() else _TOKENIZER_FILES[1:]
    digests = {name: file_sha256(folder / name) for name in names if (folder / name).is_file()}
    template = tokenizer.chat_template
    if isinstance(template, dict):  # several templates, by name
        template = json.dumps(template, sort_keys=True)
    return {
        "tokenizer_class": type(tokenizer).__name__,
        "tokenizer_sha256": _combined(digests),
        "tokenizer_files_sha256": {path.name: file_sha256(path) for path in tokenizer_files(folder)},
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest() if template else None,
    }


def software() -> dict[str, Json]:
    """Versions of what turns weights and text into numbers."""
    packages = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    return {"python": platform.python_version(), **packages}


_MAX_BYTES = 256 * 2**20
"""An index of a million tensors takes 100 MB."""
_MAX_LAYERS = 1_000
"""The deepest transformer published has 1,000 layers; each costs some milliseconds to plan."""
_MAX_EXPERTS = 10_000
_COUNTS = {re.compile(r"(^|_)(layers?|blocks|depth)$"): _MAX_LAYERS, re.compile(r"experts$"): _MAX_EXPERTS}


def check_config(path: Path) -> None:
    """Check config.json before transformers reads it.

    Raises: ConfigError where it is no object, has more layers or experts than any model, or names a weight file of its
        own, which no plan would hash.
    """
    content = _object(path)
    for key, value in _numbers(content):
        limit = next((limit for pattern, limit in _COUNTS.items() if pattern.search(key)), None)
        if limit is not None and value > limit:
            raise ConfigError(
                f"model.path: {path}: {key} is {value:,}; at most {limit:,} are read. Is this a model's config?"
            )
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
    names = sorted({name for name in weights.values() if isinstance(name, str)}) if isinstance(weights, dict) else []
    if not isinstance(weights, dict) or not names or not all(isinstance(name, str) for name in weights.values()):
        raise ConfigError(
            f"model.path: {index} is not an index of weight files: weight_map must be an object of tensor names and "
            f"file names"
        )
    for name in names:
        if not name or PurePosixPath(name).name != name or name == ".." or "\\" in name or "\0" in name:
            raise ConfigError(
                f"model.path: {index} names the file {name[:80]!a}, which is not a plain name of a file beside it; "
                f"put the file there, and its name into weight_map"
            )
    return names


def _object(path: Path) -> dict[str, Json]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        content: Json = parse_json(data, path, _MAX_BYTES, constants=True)
    except OSError as error:
        raise ConfigError(f"model.path: {path}: cannot read it: {error.strerror}") from error
    except StoreError as error:
        raise ConfigError(f"model.path: cannot read {path.name}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"model.path: cannot read {path.name}: {path} holds a {type(content).__name__}, not an object"
        )
    return content


def _numbers(content: Json) -> Iterator[tuple[str, int]]:
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
