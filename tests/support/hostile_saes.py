"""Foreign folders of SAEs that somebody has prepared: pickles that run code, bombs, links, lies about sizes."""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

CANARY = "canary"
"""Name of the file, beside the folder, that code in a pickle would make."""
Harm = Callable[[Path], None]
"""What is done to one file of an unharmed folder."""


class Runs:
    """Its pickle runs a command where it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def canary_of(file: Path) -> Path:
    """Outside the folder, which is two levels above at most."""
    return next(folder for folder in file.parents if (folder / ".world").exists()) / CANARY


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of an unharmed file."""
    if file.suffix == ".npz":
        return {name: torch.from_numpy(array) for name, array in np.load(file).items()}
    return torch.load(file) if file.suffix == ".pt" else safetensors.torch.load_file(file)


def write(file: Path, tensors: dict[str, Any]) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if file.suffix == ".npz":
        np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})
    elif file.suffix == ".pt":
        torch.save(tensors, file)
    else:
        safetensors.torch.save_file(tensors, file)


def with_tensors(edit: Callable[[dict[str, Tensor], str], Any]) -> Harm:
    """Tensors that are changed; `edit` gets them, and the name of a matrix."""

    def harm(file: Path) -> None:
        tensors = read(file)
        edit(tensors, next(name for name, tensor in tensors.items() if tensor.ndim == 2))
        write(file, tensors)

    return harm


def with_bytes(data: Callable[[Path], bytes]) -> Harm:
    return lambda file: (file.write_bytes(data(file)), None)[1]


def linked_out(file: Path) -> None:
    outside = canary_of(file).with_name(f"outside{file.suffix}")
    os.replace(file, outside)
    file.symlink_to(outside)


def linked_in_a_circle(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


ANY_FILE: dict[str, Harm] = {
    "link out of the folder": linked_out,
    "link to itself": linked_in_a_circle,
    "pipe": a_pipe,
    "folder": a_folder,
    "empty": with_bytes(lambda file: b""),
    "pickle that runs code": with_bytes(lambda file: pickle.dumps(Runs(canary_of(file)))),
}
JSON: dict[str, Harm] = {
    "JSON nested too deep": with_bytes(lambda file: b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "JSON that is no object": with_bytes(lambda file: b"[1, 2]"),
    "JSON of a huge integer": with_bytes(lambda file: b'{"k": ' + b"9" * 100_000 + b"}"),
    "JSON of NaN": with_bytes(lambda file: file.read_bytes().rstrip()[:-1] + b', "x": NaN}'),
    "JSON beyond floats": with_bytes(lambda file: file.read_bytes().rstrip()[:-1] + b', "x": 1e999}'),
    "JSON of 5 MB": with_bytes(lambda file: json.dumps({"a": "b" * 5_000_000}).encode()),
    "JSON in latin-1": with_bytes(lambda file: '{"model": "é"}'.encode("latin-1")),
    "JSON cut off": with_bytes(lambda file: file.read_bytes()[:-5]),
    "JSON of nulls": with_bytes(lambda file: json.dumps(dict.fromkeys(json.loads(file.read_bytes()), None)).encode()),
    "JSON of lists": with_bytes(lambda file: json.dumps({key: [[]] for key in json.loads(file.read_bytes())}).encode()),
}
TENSORS: dict[str, Harm] = {
    "NaN": with_tensors(lambda tensors, name: tensors[name][0].fill_(float("nan"))),
    "infinity": with_tensors(lambda tensors, name: tensors[name][0].fill_(float("inf"))),
    "unknown tensor": with_tensors(lambda tensors, name: tensors.update({"../../../etc/passwd\n": torch.ones(3)})),
    "missing tensor": with_tensors(lambda tensors, name: tensors.pop(name)),
    "wrong shape": with_tensors(lambda tensors, name: tensors.update({name: tensors[name][:-1]})),
    "vector for a matrix": with_tensors(lambda tensors, name: tensors.update({name: tensors[name][0]})),
    "matrix without rows": with_tensors(lambda tensors, name: tensors.update({name: tensors[name][:0]})),
    "integers": with_tensors(lambda tensors, name: tensors.update({name: torch.ones(3, 4, dtype=torch.int64)})),
    "matrix of integers": with_tensors(lambda tensors, name: tensors.update({name: tensors[name].long()})),
    "vectors of integers": with_tensors(
        lambda tensors, name: tensors.update(
            {name: tensor.long() for name, tensor in tensors.items() if tensor.ndim == 1}
        )
    ),
    "cut off": with_bytes(lambda file: file.read_bytes()[: file.stat().st_size // 2]),
}


def header_of(edit: Callable[[dict[str, Any], str], Any]) -> Harm:
    """A safetensors file whose header says something else."""

    def harm(file: Path) -> None:
        data = file.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        edit(header, next(name for name, entry in header.items() if len(entry.get("shape", ())) == 2))
        text = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + data[end:])

    return harm


SAFETENSORS: dict[str, Harm] = {
    "header of 2**62 bytes": with_bytes(lambda file: struct.pack("<Q", 2**62) + file.read_bytes()[8:]),
    "header longer than the file": with_bytes(lambda file: struct.pack("<Q", 2**19) + file.read_bytes()[8:]),
    "header of 2 MB": with_bytes(lambda file: struct.pack("<Q", 2**21) + b"{" + b" " * (2**21 - 2) + b"}"),
    "offsets beyond the file": header_of(lambda header, name: header[name].update(data_offsets=[0, 2**40])),
    "shape of 2**40": header_of(lambda header, name: header[name].update(shape=[2**20, 2**20])),
    "unknown dtype": header_of(lambda header, name: header[name].update(dtype="object")),
    "header that is no JSON": with_bytes(lambda file: struct.pack("<Q", 5) + b"hello"),
}


def entries(file: Path, edit: Callable[[dict[str, bytes]], Any], packing: int = zipfile.ZIP_STORED) -> None:
    """A zip archive with its entries changed."""
    with zipfile.ZipFile(file) as archive:
        kept = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    edit(kept)
    with zipfile.ZipFile(file, "w", packing) as archive:
        for name, data in kept.items():
            archive.writestr(name, data)


def npy(header: str, data: bytes = b"") -> bytes:
    """An array with this header."""
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def array_header(shape: str, dtype: str = "'<f4'") -> str:
    return f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}"


def objects(file: Path) -> None:
    array = np.empty(2, dtype=object)
    array[0] = Runs(canary_of(file))
    np.savez(file, W_enc=array, allow_pickle=True)


NPZ: dict[str, Harm] = {
    "array of pickled objects": objects,
    "zip bomb": lambda file: np.savez_compressed(file, W_enc=np.zeros(40_000_000)),
    "name out of the folder": lambda file: entries(file, lambda kept: kept.update({"../../W.npy": npy("{}")})),
    "absolute name": lambda file: entries(file, lambda kept: kept.update({"/tmp/W.npy": npy("{}")})),
    "shape of 2**60": lambda file: entries(
        file, lambda kept: kept.update({"W_enc.npy": npy(array_header("(1073741824, 1073741824)"))})
    ),
    "negative shape": lambda file: entries(
        file, lambda kept: kept.update({"W_enc.npy": npy(array_header("(-2, -4)"), bytes(32))})
    ),
    "header that is code": lambda file: entries(
        file, lambda kept: kept.update({"W_enc.npy": npy("__import__('os').system('false')")})
    ),
    "header that does not end": lambda file: entries(
        file, lambda kept: kept.update({"W_enc.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (5, 4, 5")})
    ),
    "packed by LZMA": lambda file: entries(file, lambda kept: None, zipfile.ZIP_LZMA),
    "records": lambda file: entries(
        file, lambda kept: kept.update({"W_enc.npy": npy(array_header("(1,)", "[('a', '<f4')]"), bytes(4))})
    ),
    "2,000 arrays": lambda file: entries(
        file, lambda kept: kept.update({f"a{n}.npy": npy(array_header("(0,)")) for n in range(2000)})
    ),
}


def data_of(kept: dict[str, bytes]) -> str:
    return next(name for name in kept if name.endswith("data.pkl"))


def shorter_storage(kept: dict[str, bytes]) -> None:
    """A matrix most of whose numbers are missing, so that those of other entries stand where they would."""
    largest = max(kept, key=lambda name: len(kept[name]))
    kept[largest] = kept[largest][:16]


TORCH: dict[str, Harm] = {
    "pickle that runs code in the archive": lambda file: torch.save({"W": Runs(canary_of(file))}, file),
    "pickle that names code in the archive": lambda file: entries(
        file, lambda kept: kept.update({data_of(kept): pickle.dumps(Runs(canary_of(file)), protocol=2)})
    ),
    "whole module": lambda file: torch.save(torch.nn.Linear(3, 4), file),
    "pickle before zip archives": lambda file: torch.save(read(file), file, _use_new_zipfile_serialization=False),
    "tensor of 10**12 in a few bytes": lambda file: torch.save(
        read(file) | {"decoder.weight": torch.zeros(1, 1).expand(10**6, 10**6)}, file
    ),
    "storage longer than its entry": lambda file: entries(file, shorter_storage),
    "packed entries": lambda file: entries(file, lambda kept: None, zipfile.ZIP_DEFLATED),
    "bytes": lambda file: torch.save(read(file) | {"more": bytearray(9)}, file),
    "list": lambda file: torch.save([torch.ones(3)], file),
    "dict in a dict": lambda file: torch.save({"state": read(file)}, file),
    "sparse tensor": lambda file: torch.save(read(file) | {"more": torch.eye(3).to_sparse()}, file),
    "integer beyond 64 bits": lambda file: torch.save(read(file) | {"k": 2**70}, file),
    "name that is no text": lambda file: torch.save(read(file) | {3: torch.ones(3)}, file),
}
OF_SUFFIX: dict[str, dict[str, Harm]] = {
    ".json": ANY_FILE | JSON,
    ".safetensors": ANY_FILE | TENSORS | SAFETENSORS,
    ".npz": ANY_FILE | TENSORS | NPZ,
    ".pt": ANY_FILE | TENSORS | TORCH,
}
"""What can be done to a file, by the end of its name."""
