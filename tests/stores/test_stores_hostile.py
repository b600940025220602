"""S2, S3: a store made to do harm is refused with a StoreError, quickly and in bounded memory."""

import json
import multiprocessing
import os
import resource
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from numcodecs.zstd import Zstd
from small_store import build_store

from stores import ActivationStore, Batches, Filters, StoreError, verify
from stores.canonical import canonical_json, file_sha256, sha256

SITE = "blocks.1.hook_resid_post"
MAX_SECONDS = 2.0
MAX_BYTES = 2 * 2**30
Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = build_store(tmp_path_factory.mktemp("hostile") / "honest", 300, {SITE: 8}, compressor="zstd")
    for file in path.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    return path


@pytest.fixture
def store(honest: Path, tmp_path: Path) -> Path:
    shutil.copytree(honest, tmp_path / "store")
    return tmp_path / "store"


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
    name = f"activations.zarr/sites/{SITE}/values/c/0/0"
    data = (store / name).read_bytes()
    n_chunks = json.loads((store / "plan.json").read_bytes())
    n_bytes = 16 * (n_chunks["rows_per_unit"] // n_chunks["rows_per_chunk"])
    index = np.frombuffer(data[-n_bytes - 4 : -4], "<u8").reshape(-1, 2).copy()
    body, index = change(data[: -n_bytes - 4], index)
    tail = index.astype("<u8").tobytes()
    data = body + tail + struct.pack("<I", google_crc32c.value(tail))
    (store / name).write_bytes(data)
    record = {name: {"bytes": len(data), "sha256": sha256(data)}}
    rewrite_commit(store, "000000.json", lambda value: value["files"].update(record))


def use(path: Path) -> None:
    """Everything a reader does with a store."""
    store = ActivationStore.open(path)
    assert isinstance(store.vocabulary, dict)
    site = next(iter(store.plan.sites))
    store.summary()
    store.statistics(site)
    store.mean_square_norm(site, "train", Filters(max_norm_multiple=4.0))
    with Batches(store, site, batch_size=64, threads=1) as batches:
        for step in range(8):
            batches.batch(step)
    for _ in store.in_order(site, "heldout", Filters(), 64):
        pass
    if problems := verify(path, deep=True):
        raise StoreError("; ".join(problems))


def refuse(path: Path) -> str:
    """The message that refuses a store; checks that it came quickly."""
    began = time.monotonic()
    with pytest.raises(StoreError) as caught:
        use(path)
    assert time.monotonic() - began < MAX_SECONDS
    return str(caught.value)


def test_the_honest_store_is_used(store: Path) -> None:
    rewrite_plan(store, lambda plan: None)
    rewrite_shard(store, lambda body, index: (body, index))
    use(store)


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
}


@pytest.mark.parametrize("case", PLANS)
def test_hostile_plans_are_refused(store: Path, case: str) -> None:
    rewrite_plan(store, PLANS[case])
    assert any(name in refuse(store) for name in ("plan.json", "site name", "zarr.json"))


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
}


@pytest.mark.parametrize("case", COMMITS)
def test_hostile_commit_records_are_refused(store: Path, case: str) -> None:
    rewrite_commit(store, "000000.json", COMMITS[case])
    assert "commits/000000.json" in refuse(store)


MANIFESTS: dict[str, Edit] = {
    "files a list": lambda value: value.update(files=sorted(value["files"])),
    "a file outside": lambda value: value["files"].update({"../../etc/passwd": "0" * 64}),
    "a hash a number": lambda value: value["files"].update({"commits/000000.json": 0}),
    "plan id a list": lambda value: value.update(plan_id=[]),
    "unknown key": lambda value: value.update(extra=1),
    "version a list": lambda value: value.update(version=[1]),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_hostile_manifests_are_refused(store: Path, case: str) -> None:
    rewrite(store / "MANIFEST.json", MANIFESTS[case])
    message = refuse(store)
    assert "MANIFEST" in message


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
JSON_FILES = ["plan.json", "MANIFEST.json", "commits/000000.json", "vocabulary.json", f"statistics/{SITE}.json"]


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize("case", TEXTS)
def test_hostile_json_is_refused(store: Path, name: str, case: str) -> None:
    (store / name).write_bytes(TEXTS[case])
    refuse(store)


def test_vocabulary_and_statistics_of_another_shape_are_refused(store: Path) -> None:
    for name, data in {"vocabulary.json": b'{"x":"y"}\n', f"statistics/{SITE}.json": b'{"content":7}\n'}.items():
        copy = store.with_name("copy")
        shutil.copytree(store, copy)
        (copy / name).write_bytes(data)
        entry = {"bytes": len(data), "sha256": sha256(data)}
        if name == "vocabulary.json":
            rewrite_plan(copy, lambda plan, entry=entry: plan["files"].update({"vocabulary.json": entry}))
        else:
            rewrite(
                copy / "MANIFEST.json", lambda value, name=name, data=data: value["files"].update({name: sha256(data)})
            )
        refuse(copy)
        shutil.rmtree(copy)


def with_chunk(encoded: bytes, *, crc: bool = True) -> Callable[[bytes, np.ndarray], tuple[bytes, np.ndarray]]:
    """Replaces the first chunk."""
    chunk = encoded + struct.pack("<I", google_crc32c.value(encoded)) if crc else encoded

    def change(body: bytes, index: np.ndarray) -> tuple[bytes, np.ndarray]:
        index[0] = len(body), len(chunk)
        return body + chunk, index

    return change


def with_place(offset: int, n_bytes: int) -> Callable[[bytes, np.ndarray], tuple[bytes, np.ndarray]]:
    def change(body: bytes, index: np.ndarray) -> tuple[bytes, np.ndarray]:
        index[0] = offset, n_bytes
        return body, index

    return change


ZEROS = Zstd(level=1, checksum=True).encode(bytes(2**28))
FRAME = Zstd(level=1, checksum=True).encode(np.random.default_rng(0).bytes(2048))
LYING = ZEROS[:4] + b"\x60" + struct.pack("<H", 2048 - 256) + ZEROS[9:]
CHUNKS = {
    "a bomb of 256 MiB": with_chunk(ZEROS),
    "a bomb that claims the right size": with_chunk(LYING),
    "two frames": with_chunk(FRAME + FRAME),
    "a truncated frame": with_chunk(FRAME[:-100]),
    "a frame of another size": with_chunk(Zstd(level=1).encode(bytes(2047))),
    "no frame": with_chunk(b"\0" * 100),
    "a frame's magic alone": with_chunk(b"\x28\xb5\x2f\xfd"),
    "nothing but a checksum": with_chunk(b""),
    "fewer bytes than a checksum": with_place(0, 3),
    "an offset outside": with_place(2**40, 100),
    "an end outside": with_place(0, 2**40),
    "an offset and size that overflow 2**64": with_place(2**64 - 50, 100),
    "a negative offset": with_place(2**63, 100),
    "a missing chunk": with_place(2**64 - 1, 2**64 - 1),
    "no bytes": with_place(0, 0),
}


@pytest.mark.parametrize("case", CHUNKS)
def test_hostile_chunks_are_refused(store: Path, case: str) -> None:
    rewrite_shard(store, CHUNKS[case])
    assert f"sites/{SITE}/values/c/0/0" in refuse(store)


def sparse_json(store: Path, n_bytes: int) -> None:
    (store / "plan.json").write_bytes(b'{"a":"')
    os.truncate(store / "plan.json", n_bytes)


def many_objects(store: Path) -> None:
    (store / "plan.json").write_bytes(b'{"a":[' + b"{}," * 20_000_000 + b"{}]}\n")


BOMBS: dict[str, Callable[[Path], None]] = {
    "100 MB of JSON": lambda store: sparse_json(store, 100 * 2**20),
    "1 TB of JSON": lambda store: sparse_json(store, 2**40),
    "20 million empty objects": many_objects,
    "deep JSON": lambda store: (store / "plan.json").write_bytes(TEXTS["deep"]) and None,
    "a zstd bomb": lambda store: rewrite_shard(store, CHUNKS["a bomb of 256 MiB"]),
    "a lying zstd bomb": lambda store: rewrite_shard(store, CHUNKS["a bomb that claims the right size"]),
    "units of one row": lambda store: rewrite_plan(store, PLANS["2**24 rows in units of one"]),
    "2**48 rows": lambda store: rewrite_plan(store, PLANS["2**48 rows in one unit"]),
    "plan.json is /dev/zero": lambda store: (
        (store / "plan.json").unlink(),
        (store / "plan.json").symlink_to("/dev/zero"),
    )[1],
    "MANIFEST.json is a pipe": lambda store: ((store / "MANIFEST.json").unlink(), os.mkfifo(store / "MANIFEST.json"))[
        1
    ],
    "a commit is /dev/zero": lambda store: (
        (store / "commits/000000.json").unlink(),
        (store / "commits/000000.json").symlink_to("/dev/zero"),
    )[1],
}


def _limited(path: Path, sender: Any) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_BYTES, used + MAX_BYTES))
    began = time.monotonic()
    try:
        use(path)
        outcome = "used"
    except StoreError:
        outcome = "refused"
    except BaseException as error:
        outcome = repr(error)
    sender.send((outcome, time.monotonic() - began))


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_are_refused_in_bounded_time_and_memory(store: Path, case: str) -> None:
    BOMBS[case](store)
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_limited, args=(store, sender))
    child.start()
    outcome, seconds = receiver.recv() if receiver.poll(20) else ("hangs", 20)
    child.kill()
    child.join()
    assert outcome == "refused"
    assert seconds < MAX_SECONDS
