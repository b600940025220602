"""Where a model's files are: every way to name a model ends in a local folder in the Hugging Face layout."""

import re
from dataclasses import dataclass
from pathlib import Path

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.gguf import converted, demo_gguf
from strata_sae.pipeline.paths import as_path
from strata_sae.pipeline.settings import ModelSettings

# Not "*.safetensors": repositories may carry the weights a second time, in another layout, under another name.
_SAFETENSORS = ["model*.safetensors"]
_PICKLED = ["pytorch_model*.bin"]
_SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class ModelFolder:
    """A local folder, and how its model is called in records: no home paths, no user names."""

    path: Path
    name: str
    revision: str | None = None
    """The hub commit the files belong to."""
    gguf_sha256: str | None = None
    """The file that the folder was converted from."""


def model_folder(settings: ModelSettings) -> ModelFolder:
    """The folder that holds the model: downloaded or converted first, where that has to be.

    Raises: ConfigError if there is no such model.
    """
    if settings.path == "demo":
        return _from_gguf(demo_gguf(), demo_gguf().stem)
    path = as_path(settings.path, "model.path")
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ConfigError(f"model.path: there is no file {settings.path}")
        return _from_gguf(path, path.name)
    if path.is_dir():
        return ModelFolder(path, path.resolve().name)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", settings.path) or settings.path.startswith("."):
        raise ConfigError(
            f"model.path: there is no folder {settings.path}, and it is not a hub id (like openai-community/gpt2)"
        )
    return _from_hub(settings)


def _from_gguf(path: Path, name: str) -> ModelFolder:
    folder, sha256 = converted(path)
    return ModelFolder(folder, name, gguf_sha256=sha256)


def _from_hub(settings: ModelSettings) -> ModelFolder:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if constants.HF_HUB_CACHE.startswith("~"):  # what is left of ~ where nobody knows the home folder
        raise ConfigError(
            "model.path: the hub's cache: this user has no home folder; set HF_HOME to a folder that may be written"
        )
    patterns = [*_SMALL_FILES, *(["*.py"] if settings.trust_remote_code else [])]
    try:
        path = Path(
            snapshot_download(settings.path, revision=settings.revision, allow_patterns=patterns + _SAFETENSORS)
        )
        if not list(path.glob(_SAFETENSORS[0])):
            snapshot_download(settings.path, revision=settings.revision, allow_patterns=_PICKLED)
    except LocalEntryNotFoundError as error:
        raise ConfigError(
            f"model.path: {settings.path!r} is neither a local folder nor in the hub's cache (see HF_HOME), and "
            "the hub cannot be reached; check the spelling and the network, or give a local folder, a .gguf file, "
            "or `demo`"
        ) from error
    except Exception as error:  # HTTP, validation, disk and network errors share no base class
        reason = next(iter(str(error).strip().splitlines()), "")
        raise ConfigError(
            f"model.path: cannot get {settings.path!r} (revision {settings.revision or 'default'}) from the hub: "
            f"{type(error).__name__}: {reason}; check the spelling, the revision, the network, "
            f"and for a gated model log in with `hf auth login`"
        ) from error
    commit = path.name if re.fullmatch(r"[0-9a-f]{40}", path.name) else None
    return ModelFolder(path, settings.path, revision=commit)
