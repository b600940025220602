"""What a model and its tokenizer are: the provenance record. Same files, same versions: same record, on any machine."""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.input_files import file_sha256
from strata_sae.pipeline.language_model.json_files import shards_of

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


def weights_identity(folder: Path, *, with_code: bool) -> dict[str, Any]:
    """sha256 of every weight file, of all of them together, of config.json, and of the code where it is run."""
    digests = {path.name: file_sha256(path) for path in weight_files(folder)}
    return {
        "weights_sha256": _combined(digests),
        "weight_files_sha256": digests,
        "config_sha256": file_sha256(folder / "config.json"),
    } | ({"code_files_sha256": {path.name: file_sha256(path) for path in code_files(folder)}} if with_code else {})


def code_files(folder: Path) -> list[Path]:
    """The Python files that a model folder carries, which `trust_remote_code` runs."""
    return sorted(folder.glob("*.py"))


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that decide how text becomes tokens, those that are there."""
    return [folder / name for name in (*_TOKENIZER_FILES, *_TOKENIZER_SETTINGS) if (folder / name).is_file()]


def tokenizer_identity(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """sha256 of the vocabulary and of the chat template, and the ids that begin and end a text (null: it has none)."""
    names = _TOKENIZER_FILES[:1] if (folder / _TOKENIZER_FILES[0]).is_file() else _TOKENIZER_FILES[1:]
    digests = {name: file_sha256(folder / name) for name in names if (folder / name).is_file()}
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = json.dumps(template, sort_keys=True)
    return {
        "tokenizer_class": type(tokenizer).__name__,
        "tokenizer_sha256": _combined(digests),
        "tokenizer_files_sha256": {path.name: file_sha256(path) for path in tokenizer_files(folder)},
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest() if template else None,
    }


def software() -> dict[str, str]:
    """Versions of what turns weights and text into numbers."""
    packages = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    return {"python": platform.python_version(), **packages}
