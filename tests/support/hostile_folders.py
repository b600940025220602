"""Hostile stores with other files, names, zarr metadata or JSON than a store has; see hostile_stores.py."""

import json
import os
import pickle
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from strata_sae.stores.files.canonical import canonical_json
from strata_sae.stores.files.hashing import file_sha256, sha256
from support.hostile_edits import ARRAY, COMMIT, SHARD, SITE, TOKENS, Case, Edit, rewrite, rewrite_plan

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


JSON_FILES = ["plan.json", "MANIFEST.json", COMMIT, TOKENS, f"statistics/{SITE}.json"]
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
        (store / TOKENS).write_bytes(data)
        entry = {"bytes": len(data), "sha256": sha256(data)}
        rewrite_plan(store, lambda plan: plan["files"].update({TOKENS: entry}))

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
    "a word that is no hex": vocabulary({"0": "xy"}),
    "a word of half a byte": vocabulary({"0": "abc"}),
    "a word in capitals": vocabulary({"0": "AB"}),
    "a word with spaces": vocabulary({"0": "ab cd"}),
    "a special token that is a number": vocabulary({"0": {"special": 5}}),
    "a special token of half a character": vocabulary({"0": {"special": "\ud800"}}),
    "a special token with more": vocabulary({"0": {"special": "a", "b": 1}}),
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
