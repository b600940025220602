"""What somebody may have done to a cache of activations, by format: each case alters an honest cache in place.

A case that could run something would make the file RAN beside the cache.
"""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch

from support.foreign_activations import LENGTH, OTHER, SITE, WIDTH, made_rows

RAN = "ran"
Harm = Callable[[Path], Any]
"""Takes the folder of a cache."""


class Runs:
    """A pickle of it runs a command when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def marker(path: Path) -> Path:
    return path.parent / RAN


def first(path: Path, pattern: str) -> Path:
    return sorted(path.rglob(pattern))[0]


def last(path: Path, pattern: str) -> Path:
    return sorted(path.rglob(pattern))[-1]


def edited(name: str, change: Callable[[Any], Any]) -> Harm:
    """A JSON file, or the first one of a pattern, after a change of what it holds."""

    def harm(path: Path) -> None:
        file = first(path, name)
        value = json.loads(file.read_text())
        found = change(value)
        file.write_text(json.dumps(value if found is None else found))

    return harm


def put(**fields: Any) -> Callable[[Any], Any]:
    return lambda value: value.update(fields)


def cut(pattern: str, n_bytes: int = 7) -> Harm:
    return lambda path: os.truncate(file := last(path, pattern), file.stat().st_size - n_bytes)


def longer(pattern: str) -> Harm:
    return lambda path: os.truncate(file := last(path, pattern), file.stat().st_size + 12)


def emptied(pattern: str) -> Harm:
    return lambda path: os.truncate(first(path, pattern), 0)


def gone(pattern: str) -> Harm:
    return lambda path: first(path, pattern).unlink()


def linked_out(pattern: str) -> Harm:
    def harm(path: Path) -> None:
        file = first(path, pattern)
        file.rename(path.parent / "outside")
        file.symlink_to(path.parent / "outside")

    return harm


def piped(pattern: str) -> Harm:
    def harm(path: Path) -> None:
        file = first(path, pattern)
        file.unlink()
        os.mkfifo(file)

    return harm


def written(pattern: str, data: bytes) -> Harm:
    return lambda path: first(path, pattern).write_bytes(data)


def torch_saved(pattern: str, value: Callable[[Path], Any], **options: Any) -> Harm:
    return lambda path: torch.save(value(path), first(path, pattern), **options)


def of_bare_pickle(pattern: str) -> Harm:
    return lambda path: first(path, pattern).write_bytes(pickle.dumps(Runs(marker(path))))


def pickled_as(pattern: str, data: bytes, *, compressed: bool = False, n_parts: int = 0) -> Harm:
    """An archive as torch.save makes it, whose pickle is `data`."""

    def harm(path: Path) -> None:
        kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
        with zipfile.ZipFile(first(path, pattern), "w", kind) as archive:
            archive.writestr("a/data.pkl", data)
            archive.writestr("a/version", b"3\n")
            archive.writestr("a/byteorder", b"little")
            archive.writestr("a/data/0", bytes(64))
            for number in range(n_parts):
                archive.writestr(f"a/more/{number}", b"")

    return harm


ASKS_FOR_MEMORY = b"\x80\x02cbuiltins\nbytearray\nq\x00\x8a\x06\x00\x00\x00\x00\x00\x10\x85R."
"""bytearray(2**44)"""


def stretched(path: Path, pattern: str) -> None:
    """A tensor of 2**40 rows that are one and the same: small in the file, huge when it is laid out."""
    found = torch.load(file := first(path, pattern), weights_only=True)
    found["states"] = found["states"][:1].expand(2**40, LENGTH, WIDTH)
    torch.save(found, file)


def changed_states(change: Callable[[dict[str, Any]], Any]) -> Harm:
    def harm(path: Path) -> None:
        found = torch.load(file := last(path, "*.saved.pt"), weights_only=True)
        change(found)
        torch.save(found, file)

    return harm


def with_nan(path: Path) -> None:
    """A NaN in the last row of a raw file."""
    for pattern in ("*.npy", "*.safetensors", "*.bin", "*.memmap"):
        files = [file for file in sorted(path.rglob(pattern)) if "token" not in file.name and file.name != "labels.bin"]
        if files:
            data = bytearray(files[0].read_bytes())
            data[-4:] = b"\xff\xff\xff\xff"
            files[0].write_bytes(data)


def arrow(change: Callable[[pyarrow.Table], pyarrow.Table], **options: Any) -> Harm:
    """The last Arrow file, with other contents."""

    def harm(path: Path) -> None:
        file = last(path, "*.arrow")
        with pyarrow.OSFile(str(file)) as source:
            table = change(pyarrow.ipc.open_stream(source).read_all())
        settings = pyarrow.ipc.IpcWriteOptions(**options)
        with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema, options=settings) as s:
            s.write_table(table)

    return harm


def contexts(value: Any, kind: Any = None) -> Callable[[pyarrow.Table], pyarrow.Table]:
    """The column of contexts made of other values."""
    kind = kind or pyarrow.list_(pyarrow.list_(pyarrow.float32()))
    return lambda table: table.set_column(0, SITE, pyarrow.array([value] * len(table), kind))


def wild_offsets(path: Path) -> None:
    """The offsets of the lists lead far beyond the file."""
    file = first(path, "*.arrow")
    data = file.read_bytes()
    offsets = struct.pack("<5i", *(LENGTH * number for number in range(5)))
    assert offsets in data
    file.write_bytes(data.replace(offsets, struct.pack("<5i", 0, 2**30, 2**30 + 4, 2**30 + 8, 2**30 + 12), 1))


GOOD_CONTEXT = made_rows(5, (LENGTH, WIDTH)).tolist()
SAELENS: dict[str, Harm] = {
    "no state": gone("state.json"),
    "state is no JSON": written("state.json", b"{"),
    "state is a list": written("state.json", b"[]"),
    "no files": edited("state.json", put(_data_files=[])),
    "a file that is not there": edited("state.json", put(_data_files=[{"filename": "data-7.arrow"}])),
    "a file of another folder": edited("state.json", put(_data_files=[{"filename": "../other/data.arrow"}])),
    "an absolute file": edited("state.json", put(_data_files=[{"filename": "/etc/passwd"}])),
    "a number for a file": edited("state.json", put(_data_files=[{"filename": 7}])),
    "one file twice": edited("state.json", lambda state: state["_data_files"].append(state["_data_files"][0])),
    "an index": edited("state.json", put(_indices_files=[{"filename": "indices.arrow"}])),
    "a file that leads out": linked_out("*.arrow"),
    "a pipe": piped("*.arrow"),
    "cut": cut("*.arrow", 400),
    "cut between two batches": cut("*.arrow", 8),
    "empty": emptied("*.arrow"),
    "no Arrow": written("*.arrow", b"ARROW1" + b"\0" * 500),
    "a pickle": of_bare_pickle("*.arrow"),
    "another width": edited("dataset_info.json", lambda info: info["features"][SITE].update(shape=[LENGTH, 7])),
    "another context": edited("dataset_info.json", lambda info: info["features"][SITE].update(shape=[3, WIDTH])),
    "a shape of text": edited("dataset_info.json", lambda info: info["features"][SITE].update(shape=["4", "5"])),
    "a huge shape": edited("dataset_info.json", lambda info: info["features"][SITE].update(shape=[2**31, 2**31])),
    "float64": edited("dataset_info.json", lambda info: info["features"][SITE].update(dtype="float64")),
    "contexts of unequal lengths": arrow(contexts(GOOD_CONTEXT[:3])),
    "rows of unequal widths": arrow(contexts([row[:2] for row in GOOD_CONTEXT])),
    "a missing context": arrow(contexts(None)),
    "missing numbers": arrow(contexts([[None] * WIDTH] * LENGTH)),
    "NaN": arrow(contexts([[float("nan")] * WIDTH] * LENGTH)),
    "other numbers": arrow(contexts(GOOD_CONTEXT, pyarrow.list_(pyarrow.list_(pyarrow.float64())))),
    "no token ids": arrow(lambda table: table.drop_columns(["token_ids"])),
    "negative token ids": arrow(
        lambda table: table.set_column(1, "token_ids", pyarrow.array([[-1] * 4] * len(table), table.schema[1].type))
    ),
    "compressed": arrow(lambda table: table, compression="zstd"),
    "wild offsets": wild_offsets,
    "no contexts": arrow(lambda table: table.drop_columns([SITE])),
}  # fmt: skip
FORK: dict[str, Harm] = {
    "config is no JSON": written("config.json", b"\xff"),
    "no d_model": edited("config.json", lambda config: config.pop("d_model")),
    "d_model true": edited("config.json", put(d_model=True)),
    "another d_model": edited("config.json", put(d_model=7)),
    "d_model 0": edited("config.json", put(d_model=0)),
    "a shard that is not there": edited("config.json", put(shard_count=9)),
    "2**47 shards": edited("config.json", put(shard_count=2**47)),
    "another total": edited("config.json", put(total_size=7)),
    "shuffled": edited("config.json", put(shuffle_shards=True)),
    "a shape of text": edited("shard_0.meta", put(shape=["25", "5"])),
    "a huge shape": edited("shard_0.meta", put(shape=[2**60, WIDTH])),
    "a negative shape": edited("shard_0.meta", put(shape=[-25, WIDTH])),
    "another width": edited("shard_1.meta", put(shape=[25, 4])),
    "another type": edited("shard_1.meta", put(dtype="torch.float16")),
    "a type that is code": edited("shard_0.meta", put(dtype="__import__('os').system('true')")),
    "no meta": gone("shard_1.meta"),
    "no shard": gone("shard_1.memmap"),
    "cut": cut("*.memmap"),
    "longer": longer("*.memmap"),
    "a shard that leads out": linked_out("shard_1.memmap"),
    "a pipe": piped("shard_1.memmap"),
    "NaN": with_nan,
    "tokens are a pickle": of_bare_pickle("tokens.pt"),
    "tokens run a command": torch_saved("tokens.pt", lambda path: Runs(marker(path))),
    "tokens of the old format run a command": torch_saved(
        "tokens.pt", lambda path: Runs(marker(path)), _use_new_zipfile_serialization=False
    ),
    "tokens ask for memory": pickled_as("tokens.pt", ASKS_FOR_MEMORY),
    "too few tokens": torch_saved("tokens.pt", lambda _: torch.zeros(3, dtype=torch.long)),
    "tokens are fractions": torch_saved("tokens.pt", lambda _: torch.zeros(60)),
    "no tokens": gone("tokens.pt"),
    "sequences fall": torch_saved("sequence_ranges.pt", lambda _: torch.tensor([0, 50, 20, 60])),
    "sequences beyond the rows": torch_saved("sequence_ranges.pt", lambda _: torch.tensor([0, 50, 70])),
}
ACTIVAULT: dict[str, Harm] = {
    "no metadata": gone("metadata.json"),
    "metadata is no object": written("metadata.json", b"7"),
    "no d_in": edited("metadata.json", lambda found: found.pop("d_in")),
    "another width": edited("metadata.json", put(d_in=7)),
    "another type": edited("metadata.json", put(dtype="torch.float32")),
    "a type that is code": edited("metadata.json", put(dtype="__import__('os').system('true')")),
    "a huge batch": edited("metadata.json", put(batch_size=2**40)),
    "a group is missing": gone("0badcafe*.pt"),
    "a group twice": lambda path: first(path, "0badcafe*").with_name("0badcafe-2--9_0.saved.pt").write_bytes(b""),
    "a pickle": of_bare_pickle("*.saved.pt"),
    "runs a command": torch_saved("*.saved.pt", lambda path: {"states": Runs(marker(path))}),
    "runs a command, old format": torch_saved(
        "*.saved.pt", lambda path: Runs(marker(path)), _use_new_zipfile_serialization=False
    ),
    "asks for memory": pickled_as("*.saved.pt", ASKS_FOR_MEMORY),
    "compressed": pickled_as("*.saved.pt", b"\0" * 2**20, compressed=True),
    "many parts": pickled_as("*.saved.pt", b"\x80\x02].", n_parts=50_000),
    "no tensors": torch_saved("*.saved.pt", lambda _: {"states": 1}),
    "no dictionary": torch_saved("*.saved.pt", lambda _: [1, 2]),
    "stretched": lambda path: stretched(path, "*.saved.pt"),
    "cut": cut("*.saved.pt", 100),
    "cut to half": cut("*.saved.pt", 900),
    "empty": emptied("*.saved.pt"),
    "leads out": linked_out("*.saved.pt"),
    "a pipe": piped("*.saved.pt"),
    "another shape": changed_states(lambda found: found.update(states=found["states"][:, :2].clone())),
    "other tokens": changed_states(lambda found: found.update(input_ids=found["input_ids"] + 1)),
    "too few tokens": changed_states(lambda found: found.update(input_ids=found["input_ids"][:1].clone())),
    "tokens are fractions": changed_states(lambda found: found.update(input_ids=found["input_ids"].float())),
    "NaN": changed_states(lambda found: found["states"].fill_(float("nan"))),
    "infinite": changed_states(lambda found: found["states"].fill_(float("inf"))),
    "no rows": changed_states(lambda found: found.update(states=found["states"][:0].clone())),
    "columns lie together": changed_states(lambda found: found.update(states=found["states"].transpose(0, 1))),
}
SAEV: dict[str, Harm] = {
    "metadata is no JSON": written("metadata.json", b"nope"),
    "no layers": edited("metadata.json", put(layers=[])),
    "one layer twice": edited("metadata.json", put(layers=[1, 1])),
    "a layer of text": edited("metadata.json", put(layers=["../x", 2])),
    "more layers": edited("metadata.json", put(layers=[1, 3, 5])),
    "2**20 layers": edited("metadata.json", put(layers=list(range(2**20)))),
    "another width": edited("metadata.json", put(d_model=6)),
    "a huge width": edited("metadata.json", put(d_model=2**60)),
    "no cls_token": edited("metadata.json", put(cls_token="yes")),
    "without cls_token": edited("metadata.json", put(cls_token=False)),
    "float16": edited("metadata.json", put(dtype="float16")),
    "more examples": edited("metadata.json", put(n_examples=15)),
    "no examples": edited("metadata.json", put(n_examples=0)),
    "shards for none": edited("metadata.json", put(max_tokens_per_shard=1)),
    "shards is no list": written("shards.json", b"{}"),
    "no shards": written("shards.json", b"[]"),
    "a shard of another folder": edited("shards.json", lambda found: found[1].update(name="../acts000001.bin")),
    "a shard that is not there": edited(
        "shards.json", lambda found: found.append({"name": "acts000003.bin", "n_examples": 5})
    ),
    "a shard twice": edited("shards.json", lambda found: found[1].update(name="acts000000.bin")),
    "more in a shard": edited("shards.json", lambda found: found[0].update(n_examples=2**40)),
    "less in a shard": edited("shards.json", lambda found: found[0].update(n_examples=3)),
    "a negative shard": edited("shards.json", lambda found: found[0].update(n_examples=-1)),
    "gone": gone("acts000001.bin"),
    "cut": cut("acts*.bin"),
    "longer": longer("acts*.bin"),
    "empty": emptied("acts*.bin"),
    "leads out": linked_out("acts000001.bin"),
    "a pipe": piped("acts000001.bin"),
    "NaN": with_nan,
}  # fmt: skip


def header(descr: str, shape: str) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def saved(name: str, value: Callable[[], Any], **options: Any) -> Harm:
    return lambda path: np.save(path / name, value(), **options)


NPY: dict[str, Harm] = {
    "objects": lambda path: np.save(path / "part_1.npy", np.array([Runs(marker(path))], object), allow_pickle=True),
    "a pickle": of_bare_pickle("part_1.npy"),
    "another width": saved("part_1.npy", lambda: made_rows(0, (5, LENGTH, 7))),
    "another length": saved("part_1.npy", lambda: made_rows(0, (5, 3, WIDTH))),
    "no sequences": saved("part_1.npy", lambda: made_rows(0, (20, WIDTH))),
    "another type": saved("part_1.npy", lambda: made_rows(0, (5, LENGTH, WIDTH)).astype(np.float16)),
    "float64": lambda path: [np.save(f, np.load(f).astype(float)) for f in path.glob("part*")],
    "no rows": saved("part_1.npy", lambda: made_rows(0, (0, LENGTH, WIDTH))),
    "no columns": saved("part_1.npy", lambda: made_rows(0, (5, LENGTH, 0))),
    "flat": saved("part_1.npy", lambda: made_rows(0, (60,))),
    "a huge shape": written("part_1.npy", header("'<f4'", "(1099511627776, 4, 5)") + bytes(80)),
    "a negative shape": written("part_1.npy", header("'<f4'", "(-5, -4, 5)") + bytes(400)),
    "a header that is code": written("part_1.npy", header("__import__('os').system('true')", "(5, 4, 5)") + bytes(400)),
    "a header that does not end": written("part_1.npy", header("'<f4", "(5, 4, 5") + bytes(400)),
    "a header of records": written("part_1.npy", header("[('a', '|O')]", "(5, 4, 5)") + bytes(800)),
    "an unknown version": written("part_1.npy", b"\x93NUMPY\x09\x00" + bytes(400)),
    "columns lie together": saved("part_1.npy", lambda: np.asfortranarray(made_rows(0, (5, LENGTH, WIDTH)))),
    "cut": cut("part_*.npy"),
    "longer": longer("part_*.npy"),
    "empty": emptied("part_*.npy"),
    "leads out": linked_out("part_1.npy"),
    "a pipe": piped("part_1.npy"),
    "NaN": with_nan,
    "too large to have a norm": saved("part_1.npy", lambda: np.full((5, LENGTH, WIDTH), 3e38, np.float32)),
    "too few tokens": saved("token_ids.npy", lambda: np.zeros((3, LENGTH), int)),
    "tokens are fractions": saved("token_ids.npy", lambda: np.zeros((12, LENGTH))),
    "tokens of another length": saved("token_ids.npy", lambda: np.zeros((24, 2), int)),
    "negative tokens": saved("token_ids.npy", lambda: np.full((12, LENGTH), -1)),
    "tokens beyond 31 bits": saved("token_ids.npy", lambda: np.full((12, LENGTH), 2**40)),
}


def safetensors(tensors: dict[str, Any], n_bytes: int = 0, header_bytes: int | None = None) -> bytes:
    head = json.dumps(tensors).encode()
    return struct.pack("<Q", len(head) if header_bytes is None else header_bytes) + head + bytes(n_bytes)


def described(name: str, **fields: Any) -> Harm:
    """The first file, with something else said of one tensor."""

    def harm(path: Path) -> None:
        data = first(path, "*.safetensors").read_bytes()
        n_header = int.from_bytes(data[:8], "little")
        tensors = json.loads(data[8 : 8 + n_header])
        tensors[name].update(fields)
        first(path, "*.safetensors").write_bytes(safetensors(tensors) + data[8 + n_header :])

    return harm


SAFETENSORS: dict[str, Harm] = {
    "a pickle": of_bare_pickle("1.safetensors"),
    "a header beyond the file": written("1.safetensors", safetensors({}, 8, header_bytes=2**40)),
    "a header beyond all": written("1.safetensors", safetensors({}, 8, header_bytes=2**63)),
    "no header": written("1.safetensors", b"\0\0"),
    "empty": emptied("1.safetensors"),
    "header is no JSON": written("1.safetensors", struct.pack("<Q", 4) + b"nope"),
    "header is a list": written("1.safetensors", struct.pack("<Q", 2) + b"[]"),
    "no tensors": written("1.safetensors", safetensors({})),
    "other tensors": written(
        "1.safetensors", safetensors({"x": {"dtype": "F32", "shape": [1, 5], "data_offsets": [0, 20]}}, 20)
    ),
    "a tensor is a number": written("1.safetensors", safetensors({SITE: 7})),
    "a huge shape": described(SITE, shape=[2**40, LENGTH, WIDTH]),
    "a negative shape": described(SITE, shape=[-7, -LENGTH, WIDTH]),
    "a shape of text": described(SITE, shape=["7", "4", "5"]),
    "float64": described(SITE, dtype="F64"),
    "another type": described(SITE, dtype="F16", shape=[7, LENGTH, 2 * WIDTH]),
    "offsets beyond the file": described(SITE, data_offsets=[2**40, 2**40 + 560]),
    "offsets backwards": described(SITE, data_offsets=[560, 0]),
    "negative offsets": described(SITE, data_offsets=[-560, 0]),
    "another width": described(SITE, shape=[14, 2, WIDTH]),
    "flat": described(SITE, shape=[140]),
    "fewer rows at a site": described(OTHER, shape=[4, LENGTH, WIDTH], data_offsets=[0, 320]),
    "tokens are fractions": described("token_ids", dtype="F32", shape=[14, LENGTH]),
    "tokens of another length": described("token_ids", shape=[14, 2]),
    "too few tokens": described("token_ids", shape=[1, LENGTH], data_offsets=[0, 32]),
    "gone": lambda path: [file.unlink() for file in path.glob("*.safetensors")],
    "cut": cut("*.safetensors"),
    "leads out": linked_out("1.safetensors"),
    "a pipe": piped("1.safetensors"),
    "NaN": lambda path: first(path, "0.*").write_bytes(
        first(path, "0.*").read_bytes()[:-560] + b"\xff" * 560
    ),
}  # fmt: skip
HARMS: dict[str, dict[str, Harm]] = {
    "saelens": SAELENS,
    "dictionary_learning": FORK,
    "activault": ACTIVAULT,
    "saev": SAEV,
    "npy": NPY,
    "safetensors": SAFETENSORS,
}
