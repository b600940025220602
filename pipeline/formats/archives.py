"""Tensors in zip archives, numpy's .npz and torch's .pt: what an archive declares is checked before memory is taken."""

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.errors import CheckpointError, one_line, shown
from strata_sae.pipeline.formats.npy_headers import read_npy_header
from strata_sae.pipeline.formats.plain_files import check_memory, plain_file, quoted
from strata_sae.pipeline.formats.torch_archives import load_mapped

_DAMAGED = (
    *(OSError, ValueError, RuntimeError, EOFError, KeyError, IndexError, TypeError, AttributeError),
    *(ArithmeticError, AssertionError, MemoryError, zipfile.BadZipFile, zlib.error),
)
"""What zipfile and numpy raise at damaged files."""
MAX_ENTRIES = 1024
"""Entries of an archive (count): an SAE has about ten tensors."""
SMALL_BYTES, LARGEST_GAIN = 64 * 2**20, 20
"""An archive may unpack to this many bytes, and this many times its size: weights hardly shrink, zeros a lot."""
NO_PICKLES = (
    "only plain tensors and numbers are read, and pickles that run code are never loaded; "
    "have whoever wrote the file convert it to safetensors"
)


def read_npz(path: Path, within: Path | None = None) -> dict[str, Tensor]:
    """Every array of an .npz file, by name: float32.

    Raises: CheckpointError if it is no .npz file of plain float arrays, or unpacks to far more than its own size.
    """
    found = plain_file(path, within)
    try:
        with zipfile.ZipFile(found) as archive:
            entries = _entries(archive, path)
            n_bytes = sum(entry.file_size for entry in entries)
            if n_bytes > SMALL_BYTES + LARGEST_GAIN * found.stat().st_size:
                raise CheckpointError(
                    f"{path}: unpacks to {n_bytes:,} bytes, more than {LARGEST_GAIN} times its size; "
                    "no weights shrink so far, so fetch it again from where it was published"
                )
            check_memory(2 * n_bytes, str(path))
            return {entry.filename.removesuffix(".npy"): _array(archive, entry, path) for entry in entries}
    except _DAMAGED as error:
        raise CheckpointError(f"{path}: is no whole .npz file ({_reason(error)}); fetch it again") from None


def read_torch(path: Path, within: Path | None = None) -> dict[str, Tensor]:
    """What `torch.save` wrote of a dict of tensors and numbers: float tensors as float32, others as they are.

    Raises: CheckpointError if it is no such file, names anything but plain tensors, or holds something else.
    """
    found = plain_file(path, within)
    try:
        loaded = load_mapped(found)
    except ValueError as error:
        raise CheckpointError(f"{path}: is no whole file of torch.save ({error}); {NO_PICKLES}") from None
    if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
        raise CheckpointError(f"{path}: holds no dict of tensors by name; {NO_PICKLES}")
    return {name: _plain_tensor(value, name, path, found.stat().st_size) for name, value in loaded.items()}


def _entries(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """The arrays. Raises: CheckpointError for a name that is not one file's, twice, or too many, or another packing."""
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES or len({entry.filename for entry in entries}) < len(entries):
        raise CheckpointError(f"{path}: holds a name twice, or more than {MAX_ENTRIES} arrays; fetch it again")
    for entry in entries:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise CheckpointError(f"{path}: is packed as numpy packs none; save it again with numpy.savez")
        if not entry.filename.endswith(".npy") or set(entry.filename) & set("/\\:\0") or ".." in entry.filename:
            raise CheckpointError(
                f"{path}: holds {quoted(entry.filename)}, and in an .npz file each is <name>.npy; fetch it again"
            )
    return entries


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> Tensor:
    """One array. Raises: CheckpointError if it is not of floats, or not as long as its header says."""
    name = entry.filename.removesuffix(".npy")
    with archive.open(entry) as file:
        dtype, shape, fortran, _ = read_npy_header(file)
        if dtype.kind != "f":
            raise CheckpointError(
                f"{path}: {quoted(name)}: is an array of {quoted(str(dtype))}; "
                "only floats are read, and pickled objects never; save it again as float32"
            )
        if file.tell() + math.prod(shape) * dtype.itemsize != entry.file_size:
            raise CheckpointError(
                f"{path}: {quoted(name)}: is not as long as its shape {shape} says; fetch the file again"
            )
        values = np.frombuffer(file.read(), dtype=dtype).reshape(shape, order="F" if fortran else "C")
    with np.errstate(over="ignore"):  # a float64 that float32 cannot hold is infinite, which `expect` refuses
        return torch.from_numpy(values.astype(np.float32, order="C"))


def _plain_tensor(value: Tensor | float | bool, name: str, path: Path, file_bytes: int) -> Tensor:
    """A tensor of memory of its own. Raises: CheckpointError if the value is something else."""
    if isinstance(value, bool | int | float):
        if isinstance(value, int) and abs(value) >= 2**63:
            raise CheckpointError(f"{path}: {quoted(name)}: is beyond 64 bits; fetch the file again")
        return torch.tensor(value)
    if type(value) not in (Tensor, torch.nn.Parameter) or value.layout != torch.strided:
        raise CheckpointError(f"{path}: {quoted(name)}: is a {type(value).__name__}; {NO_PICKLES}")
    # A tensor whose stride is 0 is as large as it says, in a file of a few bytes.
    if value.device.type != "cpu" or value.numel() * value.element_size() > file_bytes:
        raise CheckpointError(f"{path}: {quoted(name)}: is larger than the file, {file_bytes:,} bytes; fetch it again")
    check_memory(4 * value.numel(), str(path))
    value = value.detach()
    return value.float().clone() if value.is_floating_point() else value.clone()


def _reason(error: Exception) -> str:
    return shown(one_line(error) or type(error).__name__)
