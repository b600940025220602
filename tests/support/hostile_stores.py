"""Stores that were made to do harm: each is an honest small store with one thing changed, every checksum made to fit.

`GROUPS` holds them by what is changed; a case alters the store it is given. See hostile_reading.py for their reader.
"""

import json
import os
import pickle
import shutil
import socket
import stat
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd

from stores.canonical import canonical_json, file_sha256, sha256

SITE = "blocks.1.hook_resid_post"
ARRAY = f"activations.zarr/sites/{SITE}/values"
SHARD = f"{ARRAY}/c/0/0"
Edit = Callable[[dict[str, Any]], Any]
Case = Callable[[Path], None]


def rewrite(path: Path, edit: Edit) -> None:
    value = json.loads(path.read_bytes())
    edit(value)
    path.write_bytes(canonical_json(value))


def rewrite_plan(store: Path, edit: Edit) -> None:
    """Change the plan, and make commit records and MANIFEST agree with it, as an attacker would."""
    rewrite(store / "plan.json", edit)
    plan_id = file_sha256(store / "plan.json")
    for commit in (store / "commits").iterdir():
        rewrite_commit(store, commit.name, lambda record: record.update(plan_id=plan_id))
    rewrite(store / "MANIFEST.json", lambda value: value.update(plan_id=plan_id))


def rewrite_commit(store: Path, name: str, edit: Edit) -> None:
    """Change a commit record with its own checksum and the MANIFEST's."""
    path = store / "commits" / name
    record = json.loads(path.read_bytes())
    del record["sha256"]
    edit(record)
    path.write_bytes(canonical_json(record | {"sha256": sha256(canonical_json(record))}))
    rewrite(store / "MANIFEST.json", lambda value: value["files"].update({f"commits/{name}": file_sha256(path)}))


def rewrite_shard(store: Path, change: Callable[[bytes, np.ndarray], tuple[bytes, np.ndarray]]) -> None:
    """Change the bytes and the index of the first shard of `values`; every checksum and hash is made to fit."""
    data = (store / SHARD).read_bytes()
    plan = json.loads((store / "plan.json").read_bytes())
    n_bytes = 16 * (plan["rows_per_unit"] // plan["rows_per_chunk"])
    index = np.frombuffer(data[-n_bytes - 4 : -4], "<u8").reshape(-1, 2).copy()
    body, index = change(data[: -n_bytes - 4], index)
    tail = index.astype("<u8").tobytes()
    data = body + tail + struct.pack("<I", google_crc32c.value(tail))
    (store / SHARD).write_bytes(data)
    record = {SHARD: {"bytes": len(data), "sha256": sha256(data)}}
    rewrite_commit(store, "000000.json", lambda value: value["files"].update(record))


def renamed_site(name: str) -> Edit:
    return lambda plan: plan.update(sites={name: 8})


def sized(n_rows: int, **fields: Any) -> Edit:
    return lambda plan: plan.update(n_rows=n_rows, splits={"train": [0, n_rows]}, **fields)


PLANS: dict[str, Edit] = {
    "site ../": renamed_site("../../etc"),
    "site ..": renamed_site(".."),
    "site .": renamed_site("."),
    "site absolute": renamed_site("/etc/passwd"),
    "site with a slash": renamed_site("a/b"),
    "site with a backslash": renamed_site("..\\a"),
    "site with NUL": renamed_site("a\0b"),
    "site with a newline": renamed_site("a\n"),
    "site empty": renamed_site(""),
    "site of 10,000 characters": renamed_site("a" * 10_000),
    "site with a lone surrogate": renamed_site("\ud800"),
    "no site": lambda plan: plan.update(sites={}),
    "sites a list": lambda plan: plan.update(sites=[SITE]),
    "width 0": lambda plan: plan.update(sites={SITE: 0}),
    "width true": lambda plan: plan.update(sites={SITE: True}),
    "width text": lambda plan: plan.update(sites={SITE: "8"}),
    "width 2**40": lambda plan: plan.update(sites={SITE: 2**40}),
    "2**48 rows": sized(2**48),
    "2**48 rows in one unit": sized(2**48, rows_per_unit=2**48, rows_per_chunk=2**48),
    "2**48 + 1 rows": sized(2**48 + 1),
    "2**24 rows in units of one": sized(2**24, rows_per_unit=1, rows_per_chunk=1),
    "10**400 rows": sized(10**400),
    "negative rows": sized(-300),
    "fractional rows": sized(300.0),  # type: ignore[arg-type]
    "negative chunks": lambda plan: plan.update(rows_per_chunk=-64),
    "chunks of 0": lambda plan: plan.update(rows_per_chunk=0),
    "chunks beyond 1 GiB": lambda plan: plan.update(rows_per_chunk=2**30, rows_per_unit=2**30),
    "unit no multiple of a chunk": lambda plan: plan.update(rows_per_unit=plan["rows_per_chunk"] + 1),
    "unit of 2**48": lambda plan: plan.update(rows_per_unit=2**48),
    "split beyond the rows": lambda plan: plan.update(splits={"train": [0, 301]}),
    "split backwards": lambda plan: plan.update(splits={"train": [0, 300], "heldout": [300, 200]}),
    "splits overlapping": lambda plan: plan.update(splits={"train": [0, 300], "heldout": [200, 300]}),
    "split as text": lambda plan: plan.update(splits={"train": ["0", "300"]}),
    "split of infinity": lambda plan: plan.update(splits={"train": [0, 1e308]}),
    "unknown encoding": lambda plan: plan.update(encoding="object"),
    "encoding a list": lambda plan: plan.update(encoding=["float32"]),
    "unknown compressor": lambda plan: plan.update(compressor="pickle"),
    "unknown key": lambda plan: plan.update(filters=[{"id": "pickle"}]),
    "missing key": lambda plan: plan.pop("encoding"),
    "other version": lambda plan: plan.update(version=2),
    "files a list": lambda plan: plan.update(files=sorted(plan["files"])),
    "file record a number": lambda plan: plan["files"].update({"vocabulary.json": 1}),
    "file outside": lambda plan: plan["files"].update({"../../etc/passwd": plan["files"].pop("vocabulary.json")}),
    "file of -1 bytes": lambda plan: plan["files"]["vocabulary.json"].update(bytes=-1),
    "config a list": lambda plan: plan.update(config=[]),
    "300,000 sites": lambda plan: plan.update(sites={f"s{number}": 1 for number in range(300_000)}),
    "more columns than a commit can describe": lambda plan: plan.update(sites={f"s{n}": 2**15 for n in range(100)}),
    "split with an escape code": lambda plan: plan.update(splits={"\x1b[31m": [0, 300]}),
    "100,000 empty splits": lambda plan: plan.update(
        splits={"train": [0, 300]} | {f"s{n}": [300, 300] for n in range(10**5)}
    ),
    "true documents": lambda plan: plan.update(n_documents=True),
    "overlapping splits of 2**400": lambda plan: plan.update(splits={"train": [0, 2**400], "heldout": [2**400, 300]}),
    "calibration without int8": lambda plan: plan.update(calibration={"rows": [[0, 10]]}),
    "int8 without calibration": lambda plan: plan.update(encoding="int8"),
    "calibration beyond the rows": lambda plan: plan.update(encoding="int8", calibration={"rows": [[0, 10**9]]}),
    "calibration of fractions": lambda plan: plan.update(encoding="int8", calibration={"rows": [[0.25, 1.5]]}),
    "a million calibration spans": lambda plan: plan.update(encoding="int8", calibration={"rows": [[0, 1]] * 400_000}),
    "lineage a list": lambda plan: plan.update(lineage=[]),
    "lineage of rows that are text": lambda plan: plan.update(
        lineage={"kind": "slice", "store_id": "", "plan_id": "", "order_id": "", "rows": ["a", "b"]}
    ),
    "byte planes of float32": lambda plan: plan.update(compressor="planes"),
    "vocabulary of 1 TB": lambda plan: plan["files"]["vocabulary.json"].update(bytes=2**40),
}


COMMITS: dict[str, Edit] = {
    "no files": lambda record: record.pop("files"),
    "files a number": lambda record: record.update(files=7),
    "files a list": lambda record: record.update(files=sorted(record["files"])),
    "files a list of lists": lambda record: record.update(files=[[1]]),
    "a file outside": lambda record: record["files"].update({"../x": {"bytes": 1, "sha256": ""}}),
    "a record without a hash": lambda record: record.update(files={name: {"bytes": 1} for name in record["files"]}),
    "statistics a number": lambda record: record.update(statistics=7),
    "another unit": lambda record: record.update(unit=1),
    "other rows": lambda record: record.update(rows=[0, 2**48]),
    "a file of 1 TB": lambda record: record["files"][SHARD].update(bytes=2**40),
    "a file of one byte": lambda record: record["files"][SHARD.replace("values/c/0/0", "norm/c/0")].update(bytes=1),
    "a file of true bytes": lambda record: record["files"][SHARD].update(bytes=True),
    "statistics of no site": lambda record: record.update(statistics={}),
    "statistics with a list for a number": lambda record: record["statistics"][SITE]["all"].update(count=[1]),
    "statistics of another width": lambda record: record["statistics"][SITE]["all"].update(sum=[0.0] * 100_000),
    "statistics with huge numbers": lambda record: record["statistics"][SITE]["all"].update(sum=[10**400] * 8),
    "norm bins that are no numbers": lambda record: record["statistics"][SITE]["all"].update(norm_bins={"x": 1}),
    "norm bins outside": lambda record: record["statistics"][SITE]["all"].update(norm_bins={str(2**70): 1}),
}


MANIFESTS: dict[str, Edit] = {
    "files a list": lambda value: value.update(files=sorted(value["files"])),
    "a file outside": lambda value: value["files"].update({"../../etc/passwd": "0" * 64}),
    "a hash a number": lambda value: value["files"].update({"commits/000000.json": 0}),
    "plan id a list": lambda value: value.update(plan_id=[]),
    "unknown key": lambda value: value.update(extra=1),
    "version a list": lambda value: value.update(version=[1]),
}


TEXTS: dict[str, bytes] = {
    "deep": b'{"a":' + b"[" * 500_000 + b"]" * 500_000 + b"}\n",
    "deep, unclosed": b"[" * 2_000_000,
    "duplicate keys": b'{"a":1,"a":2}\n',
    "a list": b"[]\n",
    "NaN": b'{"a":NaN}\n',
    "an overflowing number": b'{"a":1e999}\n',
    "a number of 100,000 digits": b'{"a":' + b"9" * 100_000 + b"}\n",
    "UTF-16": '{"a":1}\n'.encode("utf-16"),
    "not UTF-8": b'{"a":"\xff"}\n',
    "nothing": b"",
    "spaces": b'{"a": 1}\n',
}


def with_chunk(encoded: bytes, *, crc: bool = True) -> Callable[[bytes, np.ndarray], tuple[bytes, np.ndarray]]:
    """Replaces the last chunk."""
    chunk = encoded + struct.pack("<I", google_crc32c.value(encoded)) if crc else encoded

    def change(body: bytes, index: np.ndarray) -> tuple[bytes, np.ndarray]:
        last = np.flatnonzero(index[:, 0] != 2**64 - 1)[-1]
        start = int(index[last, 0])
        index[last, 1] = len(chunk)
        return body[:start] + chunk, index

    return change


def with_place(offset: int, n_bytes: int) -> Callable[[bytes, np.ndarray], tuple[bytes, np.ndarray]]:
    def change(body: bytes, index: np.ndarray) -> tuple[bytes, np.ndarray]:
        index[0] = offset, n_bytes
        return body, index

    return change


def overlapping(body: bytes, index: np.ndarray) -> tuple[bytes, np.ndarray]:
    index[1] = index[0]
    return body, index


def with_gap(body: bytes, index: np.ndarray) -> tuple[bytes, np.ndarray]:
    return body + bytes(100), index


def turned_round(body: bytes, index: np.ndarray) -> tuple[bytes, np.ndarray]:
    index[[0, 1]] = index[[1, 0]]
    return body, index


@cache
def zeros() -> bytes:
    return bytes(Zstd(level=1, checksum=True).encode(bytes(2**28)))


def lying() -> bytes:
    return zeros()[:4] + b"\x60" + struct.pack("<H", 2048 - 256) + zeros()[9:]


FRAME = Zstd(level=1, checksum=True).encode(np.random.default_rng(0).bytes(2048))


CHUNKS: dict[str, Callable[[], Callable[[bytes, np.ndarray], tuple[bytes, np.ndarray]]]] = {
    "a bomb of 256 MiB": lambda: with_chunk(zeros()),
    "a bomb that claims the right size": lambda: with_chunk(lying()),
    "two frames": lambda: with_chunk(FRAME + FRAME),
    "a truncated frame": lambda: with_chunk(FRAME[:-100]),
    "a frame of another size": lambda: with_chunk(Zstd(level=1).encode(bytes(2047))),
    "no frame": lambda: with_chunk(b"\0" * 100),
    "a frame's magic alone": lambda: with_chunk(b"\x28\xb5\x2f\xfd"),
    "nothing but a checksum": lambda: with_chunk(b""),
    "fewer bytes than a checksum": lambda: with_place(0, 3),
    "an offset outside": lambda: with_place(2**40, 100),
    "an end outside": lambda: with_place(0, 2**40),
    "an offset and size that overflow 2**64": lambda: with_place(2**64 - 50, 100),
    "a negative offset": lambda: with_place(2**63, 100),
    "a missing chunk": lambda: with_place(2**64 - 1, 2**64 - 1),
    "no bytes": lambda: with_place(0, 0),
    "two chunks in one place": lambda: overlapping,
    "a gap": lambda: with_gap,
    "chunks in another order": lambda: turned_round,
    "a frame without its size": lambda: with_chunk(b"\x28\xb5\x2f\xfd\x00\x58" + FRAME[6:]),
    "a frame of a window of 2**41 bytes": lambda: with_chunk(b"\x28\xb5\x2f\xfd\x40\xf8" + FRAME[6:]),
    "a dictionary frame": lambda: with_chunk(b"\x28\xb5\x2f\xfd\x63\x01\x02\x03\x04" + FRAME[7:]),
    "a pickle": lambda: with_chunk(pickle.dumps(["a pickle"])),
}


# ---- zarr's metadata, as plain zarr would believe it

V2 = {
    "zarr_format": 2, "shape": [300, 8], "chunks": [64, 8], "dtype": "|O", "order": "C", "fill_value": None,
    "compressor": None, "filters": [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}],
}  # fmt: skip


class _Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def v2_pickle(store: Path) -> None:
    """An array that plain zarr with an old numcodecs runs."""
    (store / ARRAY / "zarr.json").unlink()
    (store / ARRAY / ".zarray").write_text(json.dumps(V2))
    for chunk in range(5):
        (store / ARRAY / f"{chunk}.0").write_bytes(pickle.dumps(_Bomb(store.with_name("canary"))))


def metadata(edit: Edit) -> Case:
    """An array's zarr.json changed."""

    def change(store: Path) -> None:
        rewrite(store / ARRAY / "zarr.json", edit)

    return change


def metadata_bytes(replace: Callable[[bytes], bytes]) -> Case:
    def change(store: Path) -> None:
        path = store / ARRAY / "zarr.json"
        path.write_bytes(replace(path.read_bytes()))

    return change


def codec(name: str, **configuration: Any) -> Edit:
    return lambda value: value["codecs"].append({"name": name, "configuration": configuration})


METADATA: dict[str, Case] = {
    "version 2 with a pickle filter": v2_pickle,
    "version 2 beside version 3": lambda store: (store / ARRAY / ".zarray").write_text(json.dumps(V2)) and None,
    "a pickle codec": metadata(codec("numcodecs.pickle", protocol=5)),
    "a codec of an unknown package": metadata(codec("os.system", command="true")),
    "blosc": metadata(codec("blosc", cname="lz4")),
    "a storage transformer": metadata(lambda value: value["storage_transformers"].append({"name": "x"})),
    "a shape of 2**60 rows": metadata(lambda value: value.update(shape=[2**60, 8])),
    "10,000 dimensions": metadata(lambda value: value.update(shape=[1] * 10_000)),
    "chunks of 0": metadata(lambda value: value["chunk_grid"]["configuration"].update(chunk_shape=[0, 8])),
    "chunks of 1": metadata(lambda value: value["chunk_grid"]["configuration"].update(chunk_shape=[1, 1])),
    "objects": metadata(lambda value: value.update(data_type="variable_length_utf8")),
    "another type of equal length": metadata_bytes(lambda data: data.replace(b'"float32"', b'"float64"')),
    "another endianness of equal length": metadata_bytes(lambda data: data.replace(b'"little"', b'"bigend"')),
    "another fill value": metadata(lambda value: value.update(fill_value=0)),
    "another chunk key": metadata_bytes(lambda data: data.replace(b'"separator":"/"', b'"separator":"."')),
    "deep JSON": metadata_bytes(lambda data: b"[" * 500_000),
    "duplicate keys": metadata_bytes(lambda data: data.replace(b"{", b'{"shape":[1],', 1)),
    "1 TB": lambda store: os.truncate(store / ARRAY / "zarr.json", 2**40),
    "a node of another kind": metadata(lambda value: value.update(node_type="group")),
}


# ---- What lies in the folder


def instead(name: str, make: Callable[[Path], Any]) -> Case:
    """Something else under a file's or folder's name."""

    def change(store: Path) -> None:
        path = store / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(path)

    return change


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def moved_behind_a_link(name: str) -> Case:
    """The same bytes, reached through a link: nothing but the link is wrong."""

    def change(store: Path) -> None:
        away = store.with_name(store.name + "-away")
        (store / name).rename(away)
        (store / name).symlink_to(away)

    return change


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        os.chdir(path.parent)  # a socket's path is short
        listener.bind(path.name)
        os.chdir(before)


def device_at(path: Path) -> None:
    try:
        os.mknod(path, 0o644 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        os.mkfifo(path)  # only root makes devices


def deep_folders(path: Path) -> None:
    """3,000 folders in each other, deeper than any path may name."""
    before = os.open(".", os.O_RDONLY)
    path.mkdir()
    os.chdir(path)
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")
    os.fchdir(before)
    os.close(before)


def sparse(name: str, n_bytes: int) -> Case:
    def change(store: Path) -> None:
        (store / name).unlink()
        (store / name).touch()
        os.truncate(store / name, n_bytes)

    return change


def extra(*parts: str) -> Case:
    def change(store: Path) -> None:
        path = store.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")

    return change


JSON_FILES = ["plan.json", "MANIFEST.json", "commits/000000.json", "vocabulary.json", f"statistics/{SITE}.json"]
EVERYTHING = [*JSON_FILES, SHARD, f"{ARRAY}/zarr.json", "activations.zarr/tokens/flags/c/0"]
FOLDERS = ["activations.zarr", ARRAY, f"{ARRAY}/c", "commits", "statistics", "activations.zarr/tokens/flags"]
FILES: dict[str, Case] = {
    **{f"{name} is a link to /etc/passwd": instead(name, link_to("/etc/passwd")) for name in EVERYTHING},
    **{f"{name} is a link to /dev/zero": instead(name, link_to("/dev/zero")) for name in EVERYTHING},
    **{f"{name} is a link to itself": instead(name, lambda path: path.symlink_to(path.name)) for name in EVERYTHING},
    **{f"{name} is a pipe": instead(name, os.mkfifo) for name in EVERYTHING},
    **{f"{name} is a socket": instead(name, socket_at) for name in EVERYTHING},
    **{f"{name} is a device": instead(name, device_at) for name in EVERYTHING},
    **{f"{name} is a folder": instead(name, os.mkdir) for name in EVERYTHING},
    **{f"{name} has 1 TB": sparse(name, 2**40) for name in EVERYTHING},
    **{f"{name} lies behind a link": moved_behind_a_link(name) for name in [*EVERYTHING, *FOLDERS]},
    **{f"{name} is a file": instead(name, Path.touch) for name in FOLDERS},
    "a file too many": extra("virus.py"),
    "a file too many beside the shards": extra(ARRAY, "c", "0", "1"),
    "a hidden file": extra("commits", ".hidden"),
    "a name with an escape code": extra("commits", "\x1b[31mred\u202e"),
    "a name that is not UTF-8": extra("commits", os.fsdecode(b"\xff\xfe")),
    "a folder too many": lambda store: (store / "activations.zarr" / "more").mkdir(),
    "3,000 folders in each other": lambda store: deep_folders(store / "commits" / "deep"),
    "a timing that is none": extra("timings", "virus.py"),
    "timings in folders": lambda store: (store / "timings" / "more").mkdir(),
    "a timing of a unit that is not": extra("timings", "999999.json"),
}  # fmt: skip


# ---- JSON


def text(name: str, data: bytes) -> Case:
    return lambda store: (store / name).write_bytes(data) and None


def many_objects(store: Path) -> None:
    (store / "plan.json").write_bytes(b'{"a":[' + b"{}," * 20_000_000 + b"{}]}\n")


def many_keys(store: Path) -> None:
    (store / "plan.json").write_bytes(b"{" + b",".join(b'"%07d":1' % n for n in range(5_000_000)) + b"}\n")


def many_numbers(store: Path) -> None:
    (store / "plan.json").write_bytes(b'{"a":[' + b"1," * 25_000_000 + b"1]}\n")


def as_many_keys_as_are_allowed(store: Path) -> None:
    (store / "plan.json").write_bytes(b"{" + b",".join(b'"%07d":1' % n for n in range(2**20)) + b"}\n")


def as_many_numbers_as_are_allowed(store: Path) -> None:
    (store / "plan.json").write_bytes(b'{"a":[' + b"1.5," * (2**22) + b"1]}\n")


JSON: dict[str, Case] = {
    **{f"{name}: {case}": text(name, data) for name in JSON_FILES for case, data in TEXTS.items()},
    "100 MB": sparse("plan.json", 100 * 2**20),
    "20 million empty objects": many_objects,
    "5 million keys": many_keys,
    "25 million numbers": many_numbers,
    "a million keys": as_many_keys_as_are_allowed,
    "4 million numbers": as_many_numbers_as_are_allowed,
}


# ---- Vocabulary, statistics, timings


def vocabulary(words: Any) -> Case:
    def change(store: Path) -> None:
        data = canonical_json(words)
        (store / "vocabulary.json").write_bytes(data)
        entry = {"bytes": len(data), "sha256": sha256(data)}
        rewrite_plan(store, lambda plan: plan["files"].update({"vocabulary.json": entry}))

    return change


def statistics(edit: Edit) -> Case:
    def change(store: Path) -> None:
        name = f"statistics/{SITE}.json"
        rewrite(store / name, edit)
        rewrite(store / "MANIFEST.json", lambda value: value["files"].update({name: file_sha256(store / name)}))

    return change


def timing(record: dict[str, Any], name: str = "000000.json") -> Case:
    def change(store: Path) -> None:
        data = canonical_json(record | {"sha256": sha256(canonical_json(record))})
        (store / "timings" / name).write_bytes(data)

    return change


def median(value: Any) -> Case:
    return statistics(lambda found: found["content"]["norm_quantiles"].update({"0.5": value}))


DESCRIPTIONS: dict[str, Case] = {
    "a word that is a number": vocabulary({"0": 5}),
    "a word that is an object": vocabulary({"0": {"a": 1}}),
    "a token that is no number": vocabulary({"x": "y"}),
    "a negative token": vocabulary({"-1": "y"}),
    "a token in another script": vocabulary({"\u0663": "y"}),
    "a token with a leading zero": vocabulary({"007": "y"}),
    "a token of 100,000 digits": vocabulary({"9" * 100_000: "y"}),
    "statistics without groups": statistics(lambda found: found.clear()),
    "statistics with a number for a group": statistics(lambda found: found.update(content=7)),
    "statistics of another count": statistics(lambda found: found["all"].update(count=10**30)),
    "statistics of text": statistics(lambda found: found["all"].update(mean="x")),
    "a mean of another width": statistics(lambda found: found["all"].update(mean=[0.0] * 100_000)),
    "a mean of lists": statistics(lambda found: found["all"].update(mean=[[0.0]] * 8)),
    "a mean of huge numbers": statistics(lambda found: found["all"].update(mean=[10**4000] * 8)),
    "a median that is text": median("1.0"),
    "a median of 10**400": median(10**400),
    "a median of -1": median(-1.0),
    "a timing of text": timing({"unit": 0, "rows": "300", "seconds": 1}),
    "a timing of another unit": timing({"unit": 1, "rows": 300, "seconds": 1}),
    "a timing of a huge unit": timing({"unit": 10**300, "rows": 300, "seconds": 1}),
    "a timing of negative seconds": timing({"unit": 0, "rows": 300, "seconds": -1.0}),
    "a timing of huge rows": timing({"unit": 0, "rows": 10**400, "seconds": 1.0}),
    "a timing that is a list": lambda store: (store / "timings/000000.json").write_bytes(b"[]\n") and None,
    "a timing that is a pipe": lambda store: os.mkfifo(store / "timings/000000.json"),
}


def other_commit(store: Path) -> None:
    """Another store's commit record, in full agreement with itself."""
    rewrite_commit(store, "000000.json", lambda record: record.update(plan_id="0" * 64))


GROUPS: dict[str, dict[str, Case]] = {
    "plans": {name: lambda store, edit=edit: rewrite_plan(store, edit) for name, edit in PLANS.items()},
    "commits": {
        **{name: lambda store, edit=edit: rewrite_commit(store, "000000.json", edit) for name, edit in COMMITS.items()},
        "of another plan": other_commit,
    },
    "manifests": {
        name: lambda store, edit=edit: rewrite(store / "MANIFEST.json", edit) for name, edit in MANIFESTS.items()
    },
    "chunks": {name: lambda store, make=make: rewrite_shard(store, make()) for name, make in CHUNKS.items()},
    "zarr metadata": METADATA,
    "files": FILES,
    "json": JSON,
    "descriptions": DESCRIPTIONS,
}
