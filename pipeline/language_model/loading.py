"""The tokenizer and the model, from any source, with one kind of error."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from strata_sae.pipeline.available import choose_device
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.capture import Capture
from strata_sae.pipeline.language_model.folder import model_folder
from strata_sae.pipeline.language_model.identity import weight_files
from strata_sae.pipeline.language_model.json_files import check_config
from strata_sae.pipeline.language_model.probes import probe
from strata_sae.pipeline.language_model.quiet import first_line, quiet
from strata_sae.pipeline.language_model.survey import cut_above, forget_padding, survey
from strata_sae.pipeline.language_model.tensors import Report, check_report, check_tied
from strata_sae.pipeline.settings import ModelSettings


def load_tokenizer(settings: ModelSettings) -> Any:
    """The model's own tokenizer (a transformers PreTrainedTokenizerBase).

    Raises: ConfigError.
    """
    return tokenizer_from(model_folder(settings).path, settings)


def load(settings: ModelSettings, sites: Sequence[str]) -> Capture:
    """The model with everything above the deepest of `sites` freed, in eval mode, on the device of the settings.

    Raises: ConfigError, also where the model is not what every row rests on (see `PROBES`).
    """
    device = choose_device(settings.device, "model.device")
    folder = model_folder(settings).path
    config = config_from(folder, settings)
    with quiet():
        found = survey(config, sites, trust_remote_code=settings.trust_remote_code)
    # Read on the CPU and cut there, so that a device never holds more than the layers that run.
    model, report = _weights_from(folder, settings, config)
    forget_padding(model)
    cut_above(model, found)
    check_report(folder, model, report, found)
    check_tied(folder, model, found)
    try:
        # Parameters keep asking for gradients, which `inference_mode` denies them: without that PyTorch takes another
        # convolution on a CPU, and the rows of Jamba are not those of the model as everybody loads it (by 1.5e-7).
        model.eval().to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"model.device: cannot move the model to {device}: {first_line(error)}") from error
    capture = Capture(model, found.sites)
    probe(capture)
    return capture


def config_from(folder: Path, settings: ModelSettings) -> Any:
    """The transformers config of the model in `folder`, with the dtype of the settings."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"model.path: {folder} has no config.json; give the folder that `save_pretrained` wrote, or a .gguf file"
        )
    check_config(folder / "config.json")
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
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=settings.trust_remote_code, local_files_only=True
        )
    if not isinstance(tokenizer.model_max_length, int | float):  # every text's length is held against it
        raise ConfigError(
            f"model.path: {folder}/tokenizer_config.json: model_max_length is no number; correct it, or remove it"
        )
    return tokenizer


def _weights_from(folder: Path, settings: ModelSettings, config: Any) -> tuple[Any, Report]:
    from transformers import AutoModelForCausalLM

    weight_files(folder)
    with _explained(folder, "the weights"), quiet():
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, settings.dtype),
            trust_remote_code=settings.trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told by `check_report`, with names, where they are needed
        )
    return model, Report.of(info)


@contextmanager
def _explained(folder: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (
        BaseException
    ) as error:  # transformers, tokenizers and safetensors share no base class for what bad files cause
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of tokenizers, in Rust
            raise
        raise ConfigError(
            f"model.path: {folder}: cannot read {what}: {type(error).__name__}: {first_line(error)}; "
            f"are the files complete, and is the architecture one that the installed transformers knows?"
        ) from error
