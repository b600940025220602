"""The tokenizer and the model, from any source, with one kind of error."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import ConfigError
from pipeline.language_model.capture import Capture
from pipeline.language_model.folder import model_folder
from pipeline.language_model.identity import weight_files
from pipeline.language_model.quiet import quiet
from pipeline.language_model.survey import cut_above, forget_padding, survey
from pipeline.model_settings import ModelSettings
from pipeline.rows import choose_device


def load_tokenizer(settings: ModelSettings) -> Any:
    """The model's own tokenizer (a transformers PreTrainedTokenizerBase).

    Raises: ConfigError.
    """
    return tokenizer_from(model_folder(settings).path, settings)


def load(settings: ModelSettings, sites: Sequence[str]) -> Capture:
    """The model with everything above the deepest of `sites` freed, in eval mode, on the device of the settings.

    Raises: ConfigError.
    """
    device = choose_device(settings.device, "model.device")
    folder = model_folder(settings).path
    config = config_from(folder, settings)
    with quiet():
        found = survey(config, sites, trust_remote_code=settings.trust_remote_code)
    # Read on the CPU and cut there, so that a device never holds more than the layers that run.
    model, missing = _weights_from(folder, settings, config)
    forget_padding(model)
    cut_above(model, found)
    lost = sorted(missing & model.state_dict().keys())
    if lost:
        raise ConfigError(
            f"model.path: the weights in {folder} lack {len(lost)} tensors that {found.architecture} needs "
            f"({', '.join(lost[:3])}); they would be random numbers. Do config.json and the weights belong together?"
        )
    try:
        model.eval().requires_grad_(False).to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"model.device: cannot move the model to {device}: {_first_line(error)}") from error
    return Capture(model, found.sites)


def config_from(folder: Path, settings: ModelSettings) -> Any:
    """The transformers config of the model in `folder`, with the dtype of the settings."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"model.path: {folder} has no config.json; give the folder that `save_pretrained` wrote, or a .gguf file"
        )
    with _explained(folder, "config.json"), quiet():
        return AutoConfig.from_pretrained(
            folder,
            trust_remote_code=settings.trust_remote_code,
            local_files_only=True,
            dtype=getattr(torch, settings.dtype),
        )


def tokenizer_from(folder: Path, settings: ModelSettings) -> Any:
    """The tokenizer whose files are in `folder`."""
    from transformers import AutoTokenizer

    with _explained(folder, "the tokenizer's files"), quiet():
        return AutoTokenizer.from_pretrained(
            folder, trust_remote_code=settings.trust_remote_code, local_files_only=True
        )


def _weights_from(folder: Path, settings: ModelSettings, config: Any) -> tuple[Any, set[str]]:
    from transformers import AutoModelForCausalLM

    weight_files(folder)
    with _explained(folder, "the weights"), quiet():
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, settings.dtype),
            trust_remote_code=settings.trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
        )
    return model, set(report["missing_keys"])


@contextmanager
def _explained(folder: Path, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # transformers, tokenizers and safetensors share no base class for what bad files cause
        raise ConfigError(
            f"model.path: {folder}: cannot read {what}: {type(error).__name__}: {_first_line(error)}; "
            f"are the files complete, and is the architecture one that the installed transformers knows?"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
