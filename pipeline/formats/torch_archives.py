"""Archives that torch.save wrote: nothing in them is run, and their numbers stay in the file until asked for.

torch.load(weights_only=True, mmap=True) reads them, once the archive and its pickle hold what torch.save writes, and no
more: that option alone lets a pickle ask for any amount of memory.
"""

import io
import os
import pickletools
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from strata_sae.pipeline.errors import first_line, shown

MAX_PICKLE_BYTES = 2**20
"""Of the part that says what the tensors are."""
MAX_DIRECTORY_BYTES = 2**20
"""Of the list of an archive's parts."""
_KINDS = ("Float", "Double", "Half", "BFloat16", "Int", "Long", "Short", "Byte", "Bool")
PLAIN_GLOBALS = frozenset(
    ["collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"]
    + [f"torch {kind}Storage" for kind in _KINDS]
)
"""What the pickle of plain tensors names."""
_CALLING = frozenset(
    ["STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"]
)
"""Instructions of a pickle by which others are named or made."""
_STORAGE = re.compile(r"(?:^|/)data/[0-9]+$")
"""Name of the part that holds the numbers of a tensor."""
_END, _LOCATOR, _END_64 = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"


def load_mapped(path: Path) -> object:
    """What torch.save wrote: a tensor, or a dict of tensors and plain values; the tensors are mapped from the file.

    Raises: ValueError if the file is no archive of torch.save, names anything but plain tensors, or is cut.
    """
    try:
        stored_bytes = _check_archive(path)
        # Mapped, a tensor ends where the file does, whatever length its pickle claims; read, it would go beyond.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        claimed_bytes = _claimed_bytes(loaded)
    except Exception as error:  # torch raises many kinds: RuntimeError, UnpicklingError, ValueError, struct.error
        raise ValueError(shown(first_line(error) or type(error).__name__)) from None
    if claimed_bytes != stored_bytes:
        raise ValueError(f"its tensors claim {claimed_bytes:,} bytes, and {stored_bytes:,} are there")
    return loaded


def _claimed_bytes(loaded: object) -> int:
    values = loaded.values() if isinstance(loaded, dict) else [loaded]
    storages = [value.untyped_storage() for value in values if isinstance(value, Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _check_archive(path: Path) -> int:
    """The bytes of its tensors. Raises: ValueError unless it is a plain zip, with a pickle that names tensors alone."""
    _check_directory(path)
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size for part in parts):
            raise ValueError("its parts are compressed, and torch.save compresses none")
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise ValueError("its parts are larger than the file")
        pickles = [part for part in parts if part.filename.endswith((".pkl", ".pickle"))]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
            raise ValueError("it holds no single small data.pkl, so torch.save did not write it")
        data = archive.read(pickles[0])
    for operation, argument, _ in pickletools.genops(io.BytesIO(data)):
        if operation.name in _CALLING or (operation.name == "GLOBAL" and argument not in PLAIN_GLOBALS):
            raise ValueError(f"its pickle names {shown(ascii(argument or operation.name))}")
    return sum(part.file_size for part in parts if _STORAGE.search(part.filename))


def _check_directory(path: Path) -> None:
    """Raises: ValueError where the list of an archive's parts is longer than that of any file of tensors."""
    with path.open("rb") as file:
        n_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(0, n_bytes - 98))
        tail = file.read(98)
        if tail[-22:-18] != _END:
            raise ValueError("it is no whole archive")
        directory_bytes = int.from_bytes(tail[-10:-6], "little")
        if tail[-42:-38] == _LOCATOR:
            if tail[:4] != _END_64:
                raise ValueError("its end is not where torch.save puts it")
            directory_bytes = int.from_bytes(tail[40:48], "little")
    if directory_bytes > MAX_DIRECTORY_BYTES:
        raise ValueError(f"it lists {directory_bytes:,} bytes of parts")
