"""The bytes of files, whatever their compression: cut at separators, and known by how they begin."""

import bz2
import gzip
import importlib
import io
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, NamedTuple

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents.document import BadRow, Place
from strata_sae.pipeline.input_files import file_sha256
from strata_sae.stores.files.canonical import Json

READ_BYTES = 1 << 20
# A block of 128 KiB takes four bytes of zstd at least: so much compressed data is 8 MiB at most.
ZSTD_READ_BYTES = 1 << 8
# The longest document, uncompressed: 16 million tokens of English. A tokenizer takes about fifty times its bytes in
# memory, and a compressed file of a few MB may hold more than any memory.
MAX_DOCUMENT_BYTES = 64 << 20


class Piece(NamedTuple):
    """The part of a file between two separators."""

    data: bytes | None
    """None: longer than MAX_DOCUMENT_BYTES, and not kept."""
    offset: int
    """Its first byte's place in the (decompressed) file."""


def pieces(path: Path, separator: bytes | None) -> Iterator[Piece]:
    """The file cut at every `separator`; uncut for None. No piece is held that is longer than MAX_DOCUMENT_BYTES.

    The last piece is what follows the last separator, empty or not.
    Raises: ConfigError if the file cannot be read to its end, or is known to be no text.
    """
    held, dropped, offset, searched = bytearray(), 0, 0, 0
    overlap = len(separator) - 1 if separator else 0  # of a separator that goes on in the next chunk
    for chunk in text_chunks(path):
        held += chunk
        start = 0
        while separator and (stop := held.find(separator, searched)) >= 0:
            length = dropped + stop - start
            yield Piece(bytes(held[start:stop]) if length <= MAX_DOCUMENT_BYTES and not dropped else None, offset)
            offset += length + len(separator)
            start = searched = stop + len(separator)
            dropped = 0
        del held[:start]
        if len(held) > MAX_DOCUMENT_BYTES + overlap:
            dropped += len(held) - overlap
            del held[: len(held) - overlap]
        searched = max(0, len(held) - overlap)
    whole = not dropped and len(held) <= MAX_DOCUMENT_BYTES
    yield Piece(bytes(held) if whole else None, offset)


_DECOMPRESSED: dict[str, Callable[[BinaryIO], io.BufferedIOBase]] = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}


def text_chunks(path: Path) -> Iterator[bytes]:
    """`chunks` of a file that should be text. Raises: ConfigError where its first bytes say that it is none."""
    head, checked = b"", False
    for chunk in chunks(path):
        if not checked:
            head += chunk
            if len(head) < HEAD_BYTES:
                continue
            _check_text(head[:HEAD_BYTES], path)
            checked, chunk = True, head
        yield chunk
    if not checked and head:
        _check_text(head, path)
        yield head


def _check_text(head: bytes, path: Path) -> None:
    if what := foreign(head):
        raise ConfigError(f"{printable(path)}: is {what.name}; {what.advice}")


def chunks(path: Path) -> Iterator[bytes]:
    """The content of a file, plain or compressed by gzip, bzip2, xz or zstd whatever its name, in bounded pieces.

    Raises: ConfigError if it cannot be read to its end.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
            file.seek(0)
            kind = compression(head)
            if kind == "zstd":
                yield from _zstandard(path, file)
                return
            stream = _DECOMPRESSED[kind](file) if kind else file
            yield from iter(lambda: stream.read(READ_BYTES), b"")
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ConfigError(f"{printable(path)}: cannot be read ({error}); is the file complete and readable?") from error


def _zstandard(path: Path, file: BinaryIO) -> Iterator[bytes]:
    # `stream_reader` takes the end of a truncated file for the end of the data; only the frame's own end tells.
    zstandard = needed("zstandard", path)
    frame = zstandard.ZstdDecompressor().decompressobj()
    inside = False
    try:
        for block in iter(lambda: file.read(READ_BYTES), b""):
            for start in range(0, len(block), ZSTD_READ_BYTES):
                piece = block[start : start + ZSTD_READ_BYTES]
                while piece:
                    inside = True
                    if data := frame.decompress(piece):
                        yield data
                    piece = b""
                    if frame.eof:
                        piece, inside = frame.unused_data, False
                        frame = zstandard.ZstdDecompressor().decompressobj()
    except zstandard.ZstdError as error:
        raise ConfigError(
            f"{printable(path)}: is not a whole .zst file ({error}); copy or compress it again"
        ) from error
    if inside:
        raise ConfigError(f"{printable(path)}: ends inside a zstd frame; copy or compress it again")


def decoded(data: bytes, place: Place, offset: int) -> str | BadRow:
    """`data`, which begins `offset` bytes into the (decompressed) file, as UTF-8, without the mark of its beginning."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return BadRow(
            place,
            f"byte {offset + error.start} (0x{data[error.start]:02x}) is not UTF-8; convert the file, for example with "
            f"`iconv -t UTF-8`",
        )
    return text.removeprefix("\ufeff") if offset == 0 else text


def too_long() -> str:
    """What is wrong with a piece that was not kept."""
    return f"longer than {MAX_DOCUMENT_BYTES >> 20} MiB uncompressed, the most that one document may have"


def head_of(path: Path) -> bytes:
    """The first bytes of what a file holds, decompressed. Raises: ConfigError if there are none to read."""
    for chunk in chunks(path):
        return chunk[:HEAD_BYTES]
    return b""


def printable(path: Path | str) -> str:
    """A path for a record or an error: bytes of its name that are not UTF-8, and control characters, are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f]", lambda found: repr(found.group())[1:-1], text)


def file_record(path: Path) -> dict[str, Json]:
    """Base name, size and sha256 of a file, as it lies on disk."""
    return {"name": printable(path.name), "bytes": path.stat().st_size, "sha256": file_sha256(path)}


def needed(module: str, path: Path | str) -> ModuleType:
    """An optional dependency. Raises: ConfigError saying how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{printable(path)}: reading it needs {module}: pip install 'strata-sae[extract]'") from error


class Foreign(NamedTuple):
    """A kind of file that is not text."""

    name: str
    advice: str


HEAD_BYTES = 512
_UNPACK = "unpack it first"
_TABLE = "set `kind: parquet`"
_ARROW = "use `kind: dataset`, with `path` the folder that it lies in"
_CONVERT = "convert it to UTF-8, for example with `iconv -f {} -t UTF-8`"
_EXPORT = "export it as parquet or JSON lines"

# Of two marks that begin with the same bytes the longer one comes first.
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
    """The kind of a file that begins with `head`; None if it may be UTF-8 text."""
    for mark, what in MARKS:
        if head.startswith(mark):
            return what
    if head[257:262] == b"ustar":
        return _TAR
    return _WIDE if len(head) >= 4 and 5 * head.count(0) >= 2 * len(head) else None


def compression(head: bytes) -> str | None:
    """The compression of a file that begins with `head`; None if it has none."""
    return next((name for mark, name in COMPRESSIONS.items() if head.startswith(mark)), None)
