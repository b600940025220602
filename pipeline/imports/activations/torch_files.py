"""Tensors in files that torch.save wrote: nothing in them is run, and numbers stay in the file until asked for."""

import math

import numpy as np
import torch

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.formats.torch_archives import load_mapped
from strata_sae.pipeline.imports.activations.activations import encoding_of
from strata_sae.pipeline.imports.activations.source_folder import SourceFolder
from strata_sae.stores.errors import UnfitRows


def read_tensors(folder: SourceFolder, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a file by their keys, mapped; a tensor alone is under the empty key. Other values are left out.

    Raises: ConfigError if it is no archive of torch.save, holds anything that would have to be run, or is cut.
    """
    where, path = folder.path / name, folder.file(name)
    try:
        found = load_mapped(path)
    except ValueError as error:
        raise ConfigError(f"{where}: no file of tensors that can be read safely ({error})") from None
    values = found if isinstance(found, dict) else {"": found}
    tensors = {
        key: value.detach() for key, value in values.items() if isinstance(key, str) and isinstance(value, torch.Tensor)
    }
    for key, tensor in tensors.items():
        if tensor.layout is not torch.strided or not tensor.is_contiguous() or tensor.device.type != "cpu":
            raise ConfigError(f"{where}: {key[:40]!a} does not lie in the file as one array; save tensor.contiguous()")
        if tensor.numel() * tensor.element_size() > folder.n_bytes(name):
            raise ConfigError(f"{where}: {key[:40]!a} of {tuple(tensor.shape)} is larger than its file")
    return tensors


class TorchRows:
    """Rows [N, M], or numbers [N], of a tensor in a file, whatever its shape; the file is opened for each piece."""

    def __init__(self, folder: SourceFolder, name: str, key: str, tensor: torch.Tensor, *, flat: bool = False) -> None:
        """`tensor`: as it is now; only its shape and type are kept."""
        shape = tuple(tensor.shape)
        self.shape = (math.prod(shape),) if flat else (math.prod(shape[:-1]), shape[-1])
        self.dtype = np.dtype(np.uint16) if tensor.dtype == torch.bfloat16 else tensor[:0].numpy().dtype
        self._folder, self._name, self._key = folder, name, key

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Raises: UnfitRows if the file was changed."""
        self._folder.unchanged(self._name)
        try:
            tensor = read_tensors(self._folder, self._name)[self._key]
        except (ConfigError, KeyError) as error:
            raise UnfitRows(str(error)) from None
        piece = tensor.reshape(self.shape)[rows].clone()
        self._folder.unchanged(self._name)
        return numbers(piece)


def numbers(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as numpy's array; bfloat16 as its bits."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def rows_encoding(tensor: torch.Tensor, where: str) -> str:
    """The encoding of a tensor's numbers. Raises: ConfigError if a store has none for it."""
    return encoding_of(str(tensor.dtype), where)
