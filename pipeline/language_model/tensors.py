"""Checks that weights fit the architecture: no tensor is left over, missing, of another shape, tied but different."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from strata_sae.pipeline.errors import ConfigError, first_line
from strata_sae.pipeline.language_model.identity import weight_files
from strata_sae.pipeline.language_model.survey import Survey, cut_above, weightless
from strata_sae.pipeline.language_model.transformers_library import CausalModel, LoadingInfo, ModelConfig, quiet
from strata_sae.pipeline.settings import ModelSettings

log = logging.getLogger(__name__)

# Constants that older versions of transformers saved beside the weights and newer ones compute. A `bias` of attention
# itself, and not of a projection in it, is a causal mask.
_CONSTANTS = re.compile(
    r"(^|\.)(inv_freq|position_ids|masked_bias|causal_mask|cos_cached|sin_cached|(attn|attention|self_attention)\.bias)$"
)
# Parts beside a language model, which plain text does not enter, and heads, which come after it.
_OTHER_PARTS = re.compile(
    r"(^|_)(vision|visual|vit|image|img|pixel|audio|speech|video|encoder|multi_modal|multimodal|mm|projector|connector|"
    r"aligner|resampler|mtp|head|score|classifier|pooler|reward)(_|$)"
)


def check_headers(folder: Path, settings: ModelSettings, config: ModelConfig, found: Survey) -> None:
    """Compare what the weight files hold with what the sites need, without reading a number.

    Raises: ConfigError naming the tensors that do not fit.
    """
    tensors = tensors_of(weight_files(folder))
    if tensors is None or getattr(config, "quantization_config", None) is not None:
        return  # packed weights have other names and shapes; `load` reads the report of their own loader
    try:
        with quiet(), weightless(), _in_one_thread():
            # Whether tied tensors are equal needs their numbers; `load` compares those.
            untied = {name: tensor for name, tensor in tensors.items() if name not in found.tied}
            state = {name: torch.empty_like(tensor, device="cpu") for name, tensor in untied.items()}
            model, info = found.model_class.from_pretrained(
                None,
                config=config,
                state_dict=state,
                dtype=getattr(torch, settings.dtype),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except Exception as error:  # `load` runs the loader again, with numbers, and reports what it finds
        log.warning(
            "model.path: the names of the weights' tensors cannot be compared with config.json before the weights are "
            "read (%s: %s); it will be done then",
            type(error).__name__,
            first_line(error),
        )
        return
    cut_above(model, found)
    check_report(folder, model, info, found)


def check_report(folder: Path, model: CausalModel, report: LoadingInfo, found: Survey) -> None:
    """Check a loading report; `model` is what `cut_above` left.

    Raises: ConfigError naming what would make rows wrong: errors, tensors of another shape, missing tensors (they would
        be random numbers), tensors left over in modules that run.
    """
    if errors := "; ".join(map(str, report.get("error_msgs") or ())):
        raise ConfigError(f"model.path: {folder}: loading the weights reported: {errors[:400]}")
    needed = model.state_dict().keys()
    if other := sorted(entry for entry in set(report["mismatched_keys"]) if entry[0] in needed):
        name, found_shape, wanted_shape = other[0]
        raise ConfigError(
            f"model.path: {len(other)} tensors in {folder} have another shape than config.json asks for, the "
            f"first {name}: {list(found_shape)} in the file, {list(wanted_shape)} in the model. Do config.json and the "
            f"weights belong together?"
        )
    if lost := sorted(needed & set(report["missing_keys"])):
        raise ConfigError(
            f"model.path: the weights in {folder} lack {len(lost)} tensors that {found.architecture} needs "
            f"({_some(lost)}); they would be random numbers. Do config.json and the weights belong together?"
        )
    if unused := sorted(name for name in set(report["unexpected_keys"]) if _in_what_runs(name, found)):
        raise ConfigError(
            f"model.path: the weights in {folder} hold {len(unused)} tensors that {found.architecture}, as config.json "
            f"describes it, leaves out of modules that run ({_some(unused)}); its rows would be another model's. Set "
            f"in config.json what these belong to (biases, norms), or use the config.json they were saved with"
        )


def check_tied(folder: Path, model: CausalModel, found: Survey) -> None:
    """Raises: ConfigError if a tensor that runs is declared to be a copy of another, and the file holds another one."""
    still_tied = getattr(model, "all_tied_weights_keys", None) or {}
    needed = model.state_dict().keys()
    for copy_name, source in sorted(found.tied.items()):
        if copy_name not in still_tied and copy_name in needed:
            raise ConfigError(
                f"model.path: config.json declares {copy_name} and {source} to be one tensor (tie_word_embeddings), "
                f"and the weights in {folder} hold two different ones; set tie_word_embeddings to false in config.json "
                f"if both are meant, or remove {copy_name} from the weights"
            )


def _in_what_runs(name: str, found: Survey) -> bool:
    """Whether a tensor that the model did not take belongs to a module that runs: rows are computed without it."""
    if _CONSTANTS.search(name):
        return False
    parts = name.split(".")
    paths = [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]
    owner = next((path for path in paths if path in found.module_paths), "")
    if owner not in found.entered or not owner:
        return False  # above the deepest site, a layer that config.json does not count, or a part beside the model
    below = parts[owner.count(".") + 1]
    inside_layer = any(part.isdigit() for part in owner.split("."))
    return inside_layer or not _OTHER_PARTS.search(below)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


@contextmanager
def _in_one_thread() -> Iterator[None]:
    """Make transformers load in this thread: `weightless` holds for one thread only."""
    name = "HF_DEACTIVATE_ASYNC_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


# As safetensors spells them.
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def tensors_of(files: list[Path]) -> dict[str, Tensor] | None:
    """{name: tensor on the meta device} of all weight files; None where they are pickles, which have no header.

    Raises: ConfigError if a file cannot be read as weights, or holds numbers of a kind that is not known.
    """
    if any(path.suffix != ".safetensors" for path in files):
        return None
    tensors: dict[str, Tensor] = {}
    for path in files:
        try:
            tensors |= _safetensors(path)
        except ConfigError:
            raise
        except Exception as error:  # what safetensors raises shares no base class
            raise ConfigError(
                f"model.path: {path}: cannot read the weights: {type(error).__name__}: {first_line(error)}; "
                f"is the file complete?"
            ) from error
    return tensors


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    tensors = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118, a safe_open is no dict
            header = file.get_slice(name)
            dtype = _DTYPES.get(header.get_dtype())
            if dtype is None:
                raise ConfigError(
                    f"model.path: {path}: the tensor {name} is of the type {header.get_dtype()}, which is not known "
                    f"here; known are {', '.join(_DTYPES)}"
                )
            tensors[name] = torch.empty(header.get_shape(), dtype=dtype, device="meta")
    return tensors
