"""Hostile stores whose plan, commits, manifest or chunks say something else, every checksum made to fit."""

import pickle
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd

from support.hostile_edits import COMMIT, SHARD, SITE, TOKENS, Edit


def renamed_site(name: str) -> Edit:
    return lambda plan: plan.update(sites={name: 8})


def sized(n_rows: int, **fields: Any) -> Edit:
    return lambda plan: plan.update(n_rows=n_rows, splits={"train": [0, n_rows]}, **fields)


FLAGS = "activations.zarr/tokens/flags/c/0"
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
    "the version before": lambda plan: plan.update(version=1),
    "a version to come": lambda plan: plan.update(version=3),
    "version true": lambda plan: plan.update(version=True),
    "version 2.0": lambda plan: plan.update(version=2.0),
    "files a list": lambda plan: plan.update(files=sorted(plan["files"])),
    "file record a number": lambda plan: plan["files"].update({TOKENS: 1}),
    "file outside": lambda plan: plan["files"].update({"../../etc/passwd": plan["files"].pop(TOKENS)}),
    "file of -1 bytes": lambda plan: plan["files"][TOKENS].update(bytes=-1),
    "no token bytes": lambda plan: plan["files"].pop(TOKENS),
    "an extra outside": lambda plan: plan["files"].update({"extras/../x": plan["files"][TOKENS]}),
    "an extra that is hidden": lambda plan: plan["files"].update({"extras/.x": plan["files"][TOKENS]}),
    "a hash that is a path": lambda plan: plan["files"][TOKENS].update(sha256="../../../../etc/passwd"),
    "a token file without chunk checksums": lambda plan: plan["files"][FLAGS].pop("chunk_crc32c"),
    "a token file of a chunk too many": lambda plan: plan["files"][FLAGS].update(chunk_crc32c="0" * 16),
    "chunk checksums in capitals": lambda plan: plan["files"][FLAGS].update(chunk_crc32c="ABCDEF01"),
    "chunk checksums a list": lambda plan: plan["files"][FLAGS].update(chunk_crc32c=[1]),
    "an index checksum a number": lambda plan: plan["files"][FLAGS].update(index_crc32c=1),
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
    "vocabulary of 1 TB": lambda plan: plan["files"][TOKENS].update(bytes=2**40),
}


COMMITS: dict[str, Edit] = {
    "no files": lambda record: record.pop("files"),
    "files a number": lambda record: record.update(files=7),
    "files a list": lambda record: record.update(files=sorted(record["files"])),
    "files a list of lists": lambda record: record.update(files=[[1]]),
    "a file outside": lambda record: record["files"].update({"../x": {"bytes": 1, "sha256": ""}}),
    "a record without a hash": lambda record: record.update(files={name: {"bytes": 1} for name in record["files"]}),
    "a hash that is a path": lambda record: record["files"][SHARD].update(sha256="../../../../etc/passwd"),
    "no chunk checksums": lambda record: record["files"][SHARD].pop("chunk_crc32c"),
    "chunk checksums of another chunk": lambda record: record["files"][SHARD].update(
        chunk_crc32c="0" * len(record["files"][SHARD]["chunk_crc32c"])
    ),
    "an index checksum of another file": lambda record: record["files"][SHARD].update(index_crc32c="00000000"),
    "an index checksum of 9 digits": lambda record: record["files"][SHARD].update(index_crc32c="000000000"),
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
    "a hash a number": lambda value: value["files"].update({COMMIT: 0}),
    "plan id a list": lambda value: value.update(plan_id=[]),
    "unknown key": lambda value: value.update(extra=1),
    "version a list": lambda value: value.update(version=[1]),
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
