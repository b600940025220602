"""A model from any source: what a plan records of it, whether that still holds, its tokenizer, and the model itself."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

import torch
from pydantic import BaseModel, JsonValue

from strata_sae.pipeline.available import choose_device
from strata_sae.pipeline.errors import ConfigError, first_line
from strata_sae.pipeline.input_files import Comparison, compare_commit, compare_file
from strata_sae.pipeline.language_model import identity
from strata_sae.pipeline.language_model.capture import Capture, isolates
from strata_sae.pipeline.language_model.folder import demo_gguf, model_folder
from strata_sae.pipeline.language_model.probe import probe
from strata_sae.pipeline.language_model.splice import WholeModel
from strata_sae.pipeline.language_model.survey import survey
from strata_sae.pipeline.language_model.tensors import check_headers
from strata_sae.pipeline.language_model.transformers_library import ModelConfig, Tokenizer, explained, quiet
from strata_sae.pipeline.language_model.weights import model_up_to, whole_model
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores.files.canonical import Json


def load_tokenizer(settings: ModelSettings) -> Tokenizer:
    """The model's own tokenizer. Raises: ConfigError."""
    return tokenizer_from(model_folder(settings).path, settings)


@overload
def load(settings: ModelSettings, sites: Sequence[str]) -> Capture: ...
@overload
def load(settings: ModelSettings, sites: Sequence[str], *, whole: Literal[True]) -> WholeModel: ...


def load(settings: ModelSettings, sites: Sequence[str], *, whole: bool = False) -> Capture:
    """The model with everything above the deepest of `sites` freed, in eval mode, on the device of the settings.

    Args:
        whole: keep all layers and the head, for logits.
    Raises: ConfigError, also where the model fails a probe (see `PROBES`).

    """
    device = choose_device(settings.device, "model.device")
    folder = model_folder(settings).path
    config = config_from(folder, settings)
    with quiet():
        found = survey(config, sites, trust_remote_code=settings.trust_remote_code, whole=whole)
    # On the CPU first, so that the device never holds more than the layers that run.
    model = (whole_model if whole else model_up_to)(folder, settings, config, found)
    try:
        # `requires_grad` stays on although `inference_mode` ignores it: without it PyTorch chooses another convolution
        # on a CPU, and Jamba's rows differ by 1.5e-7 from those of the model as transformers loads it.
        model.eval().to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"model.device: cannot move the model to {device}: {first_line(error)}") from error
    capture = (WholeModel if whole else Capture)(model, found.sites)
    probe(capture)
    return capture


def config_from(folder: Path, settings: ModelSettings) -> ModelConfig:
    """The config of the model in `folder`, with the dtype of the settings."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"model.path: {folder} has no config.json; give the folder that `save_pretrained` wrote, or a .gguf file"
        )
    identity.check_config(folder / "config.json")
    with explained(folder, "config.json"), quiet():
        config: ModelConfig = AutoConfig.from_pretrained(
            folder,
            trust_remote_code=settings.trust_remote_code,
            local_files_only=True,
            dtype=getattr(torch, settings.dtype),
        )
    return config


def tokenizer_from(folder: Path, settings: ModelSettings) -> Tokenizer:
    """The tokenizer whose files are in `folder`."""
    from transformers import AutoTokenizer

    with explained(folder, "the tokenizer's files"), quiet():
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=settings.trust_remote_code, local_files_only=True
        )
    if not isinstance(tokenizer.model_max_length, int | float):  # transformers compares every text's length with it
        raise ConfigError(
            f"model.path: {folder}/tokenizer_config.json: model_max_length is no number; correct it, or remove it"
        )
    return tokenizer


@dataclass(frozen=True)
class Description:
    """The width of every site, and which model this is."""

    widths: dict[str, int]
    provenance: dict[str, Json]
    """Goes into plan.json and is hashed: no paths, user names, tokens, times."""
    max_positions: int | None
    """Longest sequence the model was made for (tokens); null where its config does not say."""
    n_embeddings: int | None
    """Token ids that the model knows, from 0 on; null where its config does not say."""
    isolates: bool
    """Whether documents packed into one sequence can be kept from seeing each other."""


def describe(settings: ModelSettings, sites: Sequence[str]) -> Description:
    """Widths, from the config alone, and provenance, from the files' bytes (a hub model is downloaded).

    Raises: ConfigError if the model cannot be found, has no such site, or its weights are not those of its config.
    """
    source = model_folder(settings)
    config = config_from(source.path, settings)
    with quiet():
        found = survey(config, sites, trust_remote_code=settings.trust_remote_code)
    check_headers(source.path, settings, config, found)
    provenance: dict[str, Json] = {
        "model": source.name,
        "revision": source.revision,
        "gguf_sha256": source.gguf_sha256,
        "architecture": found.architecture,
        "dtype": settings.dtype,
        "attention": found.attention,
        "trust_remote_code": settings.trust_remote_code,
        "hooks": {site.name: site.place for site in found.sites},
        "tokenizer": identity.of_tokenizer(source.path, tokenizer_from(source.path, settings)),
        "software": identity.software(),
        **identity.of_weights(source.path, with_code=settings.trust_remote_code),
    }
    return Description(
        widths={name: found.widths[name] for name in sites},
        provenance=provenance,
        max_positions=getattr(config.get_text_config(), "max_position_embeddings", None),
        n_embeddings=getattr(config.get_text_config(), "vocab_size", None),
        isolates=isolates(config.model_type, found.attention),
    )


def compare_model(settings: ModelSettings, recorded: Mapping[str, Json]) -> Comparison:
    """Weights, config and tokenizer as they are now beside what `describe` recorded of them.

    A file that is no longer there is not compared: its rows are still those of the file that was read.
    Raises: pydantic's ValidationError where `recorded` is no such record.
    """
    try:
        return Comparison.of(_parts(settings, recorded)).under("model.path")
    except ConfigError as error:
        return Comparison(unknown=(str(error),))


class _RecordedFile(BaseModel):
    gguf_sha256: str


class _RecordedFolder(BaseModel):
    weight_files_sha256: dict[str, str]
    config_sha256: str
    code_files_sha256: dict[str, str] | None = None
    tokenizer: dict[str, JsonValue]


class _RecordedCommit(BaseModel):
    revision: str | None


def _parts(settings: ModelSettings, recorded: Mapping[str, Json]) -> Iterator[Comparison]:
    folder = Path(settings.path).expanduser()
    if settings.path == "demo" or folder.suffix == ".gguf":
        file = demo_gguf() if settings.path == "demo" else folder
        yield compare_file(file.name, _RecordedFile.model_validate(recorded).gguf_sha256, file)
    elif folder.is_dir():
        yield from _folder(folder, settings, _RecordedFolder.model_validate(recorded))
    elif (commit := _RecordedCommit.model_validate(recorded).revision) is None:
        yield Comparison(unknown=(f"there is no folder {folder.name}",))
    else:
        yield compare_commit("model", settings.path, settings.revision, commit)


def _folder(folder: Path, settings: ModelSettings, recorded: _RecordedFolder) -> Iterator[Comparison]:
    weights: dict[str, Path] = {}
    with suppress(ConfigError):  # there are none, or not all: each recorded file is compared by its name
        weights = {path.name: path for path in identity.weight_files(folder)}
    yield from _files(folder, recorded.weight_files_sha256, weights)
    yield compare_file("config.json", recorded.config_sha256, folder / "config.json")
    if recorded.code_files_sha256 is not None:
        yield from _files(folder, recorded.code_files_sha256, {path.name: path for path in identity.code_files(folder)})
    now = {path.name: path for path in identity.tokenizer_files(folder)}
    hashes = recorded.tokenizer.get("tokenizer_files_sha256")
    if isinstance(hashes, dict):
        yield from _files(folder, {name: str(sha256) for name, sha256 in hashes.items()}, now)
    elif now:  # plans of older versions record no hashes of the tokenizer's files
        found = identity.of_tokenizer(folder, tokenizer_from(folder, settings))
        changed = (key for key, value in recorded.tokenizer.items() if found[key] != value)
        yield Comparison(tuple(f"tokenizer.{key}: was {recorded.tokenizer[key]}, is {found[key]}" for key in changed))


def _files(folder: Path, recorded: dict[str, str], now: dict[str, Path]) -> Iterator[Comparison]:
    for name in sorted(recorded.keys() | now.keys()):
        yield compare_file(name, recorded.get(name), now.get(name, folder / name))
