"""What a model and its tokenizer are: the provenance record. Same files, same versions: same record, on any machine."""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.language_model.json_files import shards_of

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model")


def file_sha256(path: Path) -> str:
    """sha256 of a file of any size, read as a stream."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def weights_identity(folder: Path) -> dict[str, Any]:
    """sha256 of every weight file, of all of them together, and of config.json."""
    digests = {path.name: file_sha256(path) for path in weight_files(folder)}
    return {
        "weights_sha256": _combined(digests),
        "weight_files_sha256": digests,
        "config_sha256": file_sha256(folder / "config.json"),
    }


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
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest() if template else None,
    }


def software() -> dict[str, str]:
    """Versions of what turns weights and text into numbers."""
    packages = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    return {"python": platform.python_version(), **packages}
