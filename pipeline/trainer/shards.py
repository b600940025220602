"""Files that ranks write together: a checkpoint's shards, and one file of final weights made of all ranks' parts."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from strata_sae.pipeline.sharding.ranks import Ranks, is_of_latents
from strata_sae.stores.files.filesystem import STAGED, FileSystem, make_folder, staging_path, sync, write_pieces

PIECE_BYTES = 2**24
"""What the first rank holds of the others' weights at one time (bytes, about)."""
NAMES_OF_TYPES = {torch.float64: "F64", torch.float32: "F32", torch.int64: "I64"}
"""As safetensors spells them, the widest first, as it sorts them."""


def name_of_shard(number: int, of: int) -> str:
    """File of the number-th of so many shards."""
    return f"state-{number:05d}-of-{of:05d}.safetensors"


def write_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """A file of tensors. Raises: OSError."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    try:
        safetensors.torch.save_file(tensors, path)  # from the tensors' own memory: no copy of a large state
    except safetensors.SafetensorError as error:
        if (number := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def gathered_hashes(sha256: str, ranks: Ranks) -> list[str]:
    """The hashes (hex) of all ranks, each once that rank has one: none goes on before."""
    own = torch.tensor(list(bytes.fromhex(sha256)), dtype=torch.uint8, device=ranks.device)
    return [bytes(of_rank).hex() for of_rank in ranks.gather(own).tolist()]


def held_tensors(
    files: Sequence[tuple[Path, range]], held: range, renamed: Callable[[dict[str, str]], Mapping[str, str]]
) -> dict[str, Tensor]:
    """The rows of the latents `held`, and what has none, from files that hold a range of latents each.

    renamed: today's names of the tensors, from a mapping of each name to itself.
    """
    pieces: dict[str, list[Tensor]] = {}
    for path, latents in files:
        start, stop = max(held.start, latents.start), min(held.stop, latents.stop)
        if start >= stop:
            continue
        with safetensors.safe_open(path, framework="pt") as file:
            for name, stored in renamed({name: name for name in names_in(file)}).items():
                if is_of_latents(name):
                    rows = file.get_slice(stored)[start - latents.start : stop - latents.start]
                    pieces.setdefault(name, []).append(rows)
                elif name not in pieces:
                    pieces[name] = [file.get_tensor(stored)]
    return {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in pieces.items()}


def names_in(file: safetensors.safe_open) -> list[str]:
    """The tensors of an open file."""
    return list(file.keys())


def write_together(path: Path, weights: Mapping[str, Tensor], ranks: Ranks, staging: Path) -> str:
    """One safetensors file of the weights of all ranks, as one process would write it. Returns: its sha256.

    Each rank writes its part below `staging`; the first one then copies them piece by piece, and removes them.
    """
    parts = staging / f"{STAGED}{path.name}"
    if ranks.rank == 0:
        make_folder(staging)
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir()
    ranks.any(False)  # the folder is there
    write_tensors(parts / f"{ranks.rank}.safetensors", weights)
    ranks.any(False)  # so are all parts
    sha256 = _put_together(path, parts, ranks.n) if ranks.rank == 0 else ""
    return gathered_hashes(sha256 or "0" * 64, ranks)[0]


def _put_together(path: Path, parts: Path, n: int) -> str:
    """Write the file, and remove its parts. Returns: its sha256."""
    staged = staging_path(path)
    try:
        _, sha256 = write_pieces(
            FileSystem(), staged, _pieces([parts / f"{r}.safetensors" for r in range(n)]), sys.maxsize
        )
        os.rename(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    sync(path.parent)
    shutil.rmtree(parts)
    return sha256


def _pieces(files: Sequence[Path]) -> Iterator[bytes]:
    """The bytes of one safetensors file: its header, then tensor after tensor."""
    with safetensors.safe_open(files[0], framework="pt") as first:
        likes = {name: first.get_slice(name) for name in names_in(first)}
        types = {name: like.get_dtype() for name, like in likes.items()}
        shapes = {name: list(like.get_shape()) for name, like in likes.items()}
    split = {name for name, shape in shapes.items() if is_of_latents(name) and shape}
    for path in files[1:]:
        with safetensors.safe_open(path, framework="pt") as file:
            for name in split:
                shapes[name][0] += file.get_slice(name).get_shape()[0]
    order = sorted(shapes, key=lambda name: (list(NAMES_OF_TYPES.values()).index(types[name]), name))
    yield _header(order, types, shapes)
    for name in order:
        for path in files if name in split else files[:1]:
            yield from _rows(path, name)


def _header(order: Sequence[str], types: Mapping[str, str], shapes: Mapping[str, list[int]]) -> bytes:
    """The header of a safetensors file: its length in 8 bytes, then JSON, padded to a multiple of 8."""
    header, end = {}, 0
    for name in order:
        n_bytes = (4 if types[name] == "F32" else 8) * torch.Size(shapes[name]).numel()
        header[name] = {"dtype": types[name], "shape": shapes[name], "data_offsets": [end, end + n_bytes]}
        end += n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _rows(path: Path, name: str) -> Iterator[bytes]:
    """A tensor's bytes, some rows at a time."""
    with safetensors.safe_open(path, framework="pt") as file:
        rows = file.get_slice(name)
        shape = rows.get_shape()
        if not shape:
            yield file.get_tensor(name).numpy().tobytes()
            return
        at_once = max(1, PIECE_BYTES // (8 * torch.Size(shape[1:]).numel()))
        for start in range(0, shape[0], at_once):
            yield rows[start : min(start + at_once, shape[0])].contiguous().numpy().tobytes()
