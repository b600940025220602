"""A model's weights: those of the modules that run up to the deepest site, or all of them."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor

from strata_sae.pipeline.errors import first_line
from strata_sae.pipeline.language_model.identity import weight_files
from strata_sae.pipeline.language_model.survey import Survey, cut_above, cut_beside, forget_padding
from strata_sae.pipeline.language_model.tensors import check_report, check_tied, tensors_of
from strata_sae.pipeline.language_model.transformers_library import (
    CausalModel,
    LoadingInfo,
    ModelConfig,
    explained,
    quiet,
)
from strata_sae.pipeline.settings import ModelSettings

log = logging.getLogger(__name__)
Cut = Callable[[CausalModel, Survey], None]
"""Deletes, in place, what is not needed of a model."""


def model_up_to(folder: Path, settings: ModelSettings, config: ModelConfig, found: Survey) -> CausalModel:
    """The model on the CPU without what lies above the deepest site, whose weights are not read.

    Where that is not possible, all weights are read first, and the log says why.
    Raises: ConfigError (see `check_report` and `check_tied`).
    """
    return _cut(folder, settings, config, found, cut_above, "also those above the deepest site")


def parts_of(folder: Path, settings: ModelSettings, config: ModelConfig, found: Survey) -> CausalModel:
    """The modules of `found.entered` in an otherwise empty model, which cannot run. Raises: as `model_up_to`."""
    return _cut(folder, settings, config, found, cut_beside, "also those that are not needed")


def _cut(folder: Path, settings: ModelSettings, config: ModelConfig, found: Survey, cut: Cut, also: str) -> CausalModel:
    reason = _why_whole(folder, config, found)
    if reason is None:
        try:
            return _of_what_runs(folder, settings, config, found, cut)
        except Exception as error:  # the loader and a model's code may raise anything
            reason = f"{type(error).__name__}: {first_line(error)}"
    log.warning("model.path: %s: all weights are read, %s: %s", folder.name, also, reason)
    model, report = _all_of(folder, settings, config)
    cut(model, found)
    return _checked(folder, model, report, found)


def whole_model(folder: Path, settings: ModelSettings, config: ModelConfig, found: Survey) -> CausalModel:
    """The model on the CPU with all of its layers and its head. Raises: as `model_up_to`."""
    return _checked(folder, *_all_of(folder, settings, config), found)


def _checked(folder: Path, model: CausalModel, report: LoadingInfo, found: Survey) -> CausalModel:
    forget_padding(model)
    check_report(folder, model, report, found)
    check_tied(folder, model, found)
    return model


def _all_of(folder: Path, settings: ModelSettings, config: ModelConfig) -> tuple[CausalModel, LoadingInfo]:
    from transformers import AutoModelForCausalLM

    weight_files(folder)
    with explained(folder, "the weights"), quiet():
        loaded: tuple[CausalModel, LoadingInfo] = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, settings.dtype),
            trust_remote_code=settings.trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `check_report` refuses those that are needed, by name
        )
    return loaded


def _why_whole(folder: Path, config: ModelConfig, found: Survey) -> str | None:
    """Why the loader has to see the whole model; None where it need not."""
    if getattr(config, "quantization_config", None) is not None:
        return "they are quantised, and their loader takes a model as it finds it in config.json"
    if not found.model_class.__module__.startswith("transformers."):
        return f"{found.architecture} is code of its own, which may need its layers while it loads"
    if (folder / "adapter_config.json").is_file():
        return "adapter_config.json names an adapter, which is loaded into a whole model"
    return None


def _of_what_runs(folder: Path, settings: ModelSettings, config: ModelConfig, found: Survey, cut: Cut) -> CausalModel:
    dtype = getattr(torch, settings.dtype)
    headers = tensors_of(files := weight_files(folder))  # None: pickles, which transformers maps
    with quiet(), _stored(files, headers or {}, dtype) as state:
        model, report = _cut_class(found, cut).from_pretrained(
            folder if headers is None else None,
            state_dict=None if headers is None else state,
            config=config,
            dtype=dtype,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    model.__class__ = found.model_class
    if empty := [name for name, tensor in model.state_dict().items() if tensor.is_meta]:
        raise RuntimeError(f"{empty[0]} was not filled")
    return _checked(folder, model, report, found)


def _cut_class(found: Survey, cut: Cut) -> type[CausalModel]:
    """The model's class, whose objects lack what `cut` deletes before a weight is read.

    transformers builds a model without content, then fills what it finds in it: of the files' tensors it reads those
    that the model has.
    """

    def build(model: CausalModel, *args: ModelConfig) -> None:
        found.model_class.__init__(model, *args)
        cut(model, found)
        left = model.state_dict().keys()
        tied = model.all_tied_weights_keys.items()
        model.all_tied_weights_keys = {copy: source for copy, source in tied if copy in left and source in left}

    own = {"__init__": build, "__module__": found.model_class.__module__}
    # transformers looks up by this very name what it has to convert.
    return type(found.architecture, (found.model_class,), own)


@contextmanager
def _stored(files: list[Path], headers: dict[str, Tensor], dtype: torch.dtype) -> Iterator[dict[str, Tensor]]:
    """Within the block: {name: a tensor of the files that is read when it is indexed}.

    Tensors of the wanted type are mapped: processes on one machine share them. Others are read and converted one by
    one, so that what lies in the file is not held beside what was made of it.
    """
    from safetensors import safe_open

    with ExitStack() as stack:
        state = {}
        for path in files if headers else []:
            mapped = stack.enter_context(safe_open(path, framework="pt", backend="mmap"))
            read = stack.enter_context(safe_open(path, framework="pt", backend="pread"))
            for name in mapped.keys():  # noqa: SIM118, a safe_open is no dict
                state[name] = (mapped if headers[name].dtype == dtype else read).get_slice(name)
        yield state
