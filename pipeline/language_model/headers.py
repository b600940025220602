"""The names, shapes and dtypes of the tensors in weight files, read without the numbers."""

from pathlib import Path

import torch
from torch import Tensor

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.quiet import first_line

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
