"""What a file holds, by its first bytes: names and suffixes are believed only after them."""

from typing import NamedTuple


class Foreign(NamedTuple):
    """Something else than text."""

    name: str
    advice: str


HEAD_BYTES = 512
_UNPACK = "unpack it first"
_TABLE = "set `kind: parquet`"
_ARROW = "use `kind: dataset`, with `path` the folder that it lies in"
_CONVERT = "convert it to UTF-8, for example with `iconv -f {} -t UTF-8`"
_EXPORT = "export it as parquet or JSON lines"

# The longer of two marks that begin alike stands first.
MARKS: tuple[tuple[bytes, Foreign], ...] = (
    (b"PAR1", Foreign("a parquet file", _TABLE)),
    (b"ARROW1", Foreign("an Arrow file", _ARROW)),
    (b"\xff\xff\xff\xff", Foreign("an Arrow stream", _ARROW)),
    (b"\xff\xfe\x00\x00", Foreign("text in UTF-32", _CONVERT.format("UTF-32"))),
    (b"\x00\x00\xfe\xff", Foreign("text in UTF-32", _CONVERT.format("UTF-32"))),
    (b"\xff\xfe", Foreign("text in UTF-16", _CONVERT.format("UTF-16"))),
    (b"\xfe\xff", Foreign("text in UTF-16", _CONVERT.format("UTF-16"))),
    (b"PK\x03\x04", Foreign("a zip archive", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Foreign("a 7z archive", _UNPACK)),
    (b"Rar!\x1a\x07", Foreign("a rar archive", _UNPACK)),
    (b"\x04\x22\x4d\x18", Foreign("compressed with lz4", _UNPACK)),
    (b"%PDF-", Foreign("a PDF", "extract its text first")),
    (b"SQLite format 3\x00", Foreign("a SQLite database", _EXPORT)),
    (b"\x89HDF\r\n", Foreign("an HDF5 file", _EXPORT)),
    (b"Obj\x01", Foreign("an Avro file", _EXPORT)),
    (b"ORC\n", Foreign("an ORC file", _EXPORT)),
    (
        b"version https://git-lfs.github.com/spec/v1",
        Foreign("a Git LFS pointer, which stands for the file", "fetch the file itself: `git lfs pull`"),
    ),
)
_TAR = Foreign("a tar archive", _UNPACK)
_WIDE = Foreign("half NUL bytes, as text in UTF-16 without a mark is", _CONVERT.format("UTF-16LE"))

COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
"""The first bytes of compressed files that are read as what they hold. Zstd's skippable frames are not among them."""


def foreign(head: bytes) -> Foreign | None:
    """What a file is that begins with `head`, if it is known to be no UTF-8 text."""
    for mark, what in MARKS:
        if head.startswith(mark):
            return what
    if head[257:262] == b"ustar":
        return _TAR
    return _WIDE if len(head) >= 4 and 5 * head.count(0) >= 2 * len(head) else None


def compression(head: bytes) -> str | None:
    """How a file is compressed that begins with `head`; None: it is not."""
    return next((name for mark, name in COMPRESSIONS.items() if head.startswith(mark)), None)


def refusal(head: bytes) -> str | None:
    """What to say of a file that should be text and begins with `head`, if it is none."""
    what = foreign(head)
    return f"is {what.name}; {what.advice}" if what else None
