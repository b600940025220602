"""Columns of Arrow streams, as `datasets` writes them: mapped, checked, and read as rows.

Of the format (Arrow's Message.fbs) only this is parsed here: whether a batch is compressed. Such a batch would be
decoded whole when it is opened, and `datasets` writes none.
"""

import struct
from typing import NamedTuple, TypeAlias

import numpy as np

from strata_sae.pipeline.errors import ConfigError, first_line, shown
from strata_sae.pipeline.imports.activations.activations import ENCODINGS
from strata_sae.pipeline.imports.activations.source_folder import SourceFolder

try:
    import pyarrow
except ModuleNotFoundError:
    pyarrow = None

Batch: TypeAlias = "pyarrow.RecordBatch"
_VALUES = {"float32": "float", "float16": "halffloat", "int32": "int32"}
"""Type of a column's numbers -> how pyarrow names it."""
_END = b"\xff\xff\xff\xff\0\0\0\0"
_HEADER, _COMPRESSION = 2, 3
"""Numbers of the fields of a Message and of a RecordBatch."""


class Column(NamedTuple):
    """A column, each of whose entries is a context."""

    name: str
    encoding: str
    """One of ENCODINGS, or int32."""
    shape: tuple[int, ...]
    """Of an entry: [S, M], or [S]."""


class Opened:
    """The batches of the file that was read last; those of others are let go."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.batches: list[Batch] = []


class ArrowShard:
    """One file. Its batches are opened when rows are asked for, and stay open until another file's are."""

    def __init__(self, folder: SourceFolder, name: str, columns: list[Column], opened: Opened) -> None:
        """Raises: ConfigError if it is no Arrow stream with these columns, every entry of its shape."""
        self.folder, self.name, self._columns, self._opened = folder, name, columns, opened
        if pyarrow is None:
            raise ConfigError(
                f"{folder.path}: SAELens' activations are Arrow files, which need pyarrow; pip install "
                "'strata-sae[extract]'"
            )
        path = folder.file(name)
        try:
            self.n_rows = sum(batch.num_rows for batch in self._batches(str(path)))
        except (pyarrow.ArrowException, OSError, ValueError, struct.error, KeyError, TypeError, OverflowError) as error:
            raise ConfigError(
                f"{folder.path / name}: no Arrow stream of these contexts that can be read safely "
                f"({shown(first_line(error))})"
            ) from None

    def batches(self) -> list[Batch]:
        """All of them, mapped. Raises: UnfitRows if the file was changed."""
        self.folder.unchanged(self.name)
        if self._opened.name != self.name:
            self._opened.name, self._opened.batches = self.name, self._batches(str(self.folder.file(self.name)))
        return self._opened.batches

    def _batches(self, path: str) -> list[Batch]:
        with pyarrow.memory_map(path) as file:
            if file.size() < len(_END) or file.read_at(len(_END), file.size() - len(_END)) != _END:
                raise ValueError("it does not end as a stream does; it is cut")
            first, *others = pyarrow.ipc.MessageReader.open_stream(file)
            schema = pyarrow.ipc.read_schema(first)
            found = []
            for message in others:
                if message.type != "record batch" or _is_compressed(message.metadata.to_pybytes()):
                    raise ValueError(f"a {message.type} that is compressed, or that datasets does not write")
                batch = pyarrow.ipc.read_record_batch(message, schema)
                batch.validate(full=True)
                for column in self._columns:
                    _check(_stored(batch, column.name), column)
                found.append(batch)
        return found


class ArrowColumn:
    """The rows [N, M] of a column of contexts, or the numbers [N] of one of token ids."""

    def __init__(self, shard: ArrowShard, column: Column) -> None:
        length, *width = column.shape
        self.shape = (shard.n_rows * length, *width)
        self.dtype = np.dtype(ENCODINGS.get(column.encoding, "<i4"))
        self._shard, self._column = shard, column

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Raises: UnfitRows if the file was changed."""
        start, stop, _ = rows.indices(self.shape[0])
        length = self._column.shape[0]
        first, last = start // length, -(-stop // length)
        parts, begin = [], 0
        for batch in self._shard.batches():
            a, b = max(first, begin), min(last, begin + batch.num_rows)
            if a < b:
                flat = _stored(batch, self._column.name).slice(a - begin, b - a)
                for _ in self._column.shape:
                    flat = flat.flatten()
                parts.append(flat.to_numpy(zero_copy_only=True))
            begin += batch.num_rows
        values = np.concatenate(parts).reshape(-1, *self.shape[1:])
        self._shard.folder.unchanged(self._shard.name)
        return values[start - first * length : stop - first * length].copy()


def _stored(batch: Batch, name: str) -> "pyarrow.Array":
    """A column by its name; where `datasets` is loaded too, what lies under its type."""
    found = batch.column(name)
    return getattr(found, "storage", found)


def _check(entries: "pyarrow.Array", column: Column) -> None:
    """Raises: ValueError unless every entry has the column's shape and type, and none is missing."""
    n_entries = len(entries)
    for size in column.shape:
        if entries.null_count or not hasattr(entries, "flatten"):
            raise ValueError(f"{column.name[:40]!a}: an entry is missing")
        fixed = getattr(entries.type, "list_size", None)
        if fixed is None:
            lengths = np.diff(entries.offsets.to_numpy())
            if (lengths != size).any():
                raise ValueError(f"{column.name[:40]!a}: an entry of another length than {size}")
        elif fixed != size:
            raise ValueError(f"{column.name[:40]!a}: entries of {fixed}, not {size}")
        entries = entries.flatten()
        n_entries *= size
    if str(entries.type) != _VALUES[column.encoding] or entries.null_count or len(entries) != n_entries:
        raise ValueError(f"{column.name[:40]!a}: numbers of {entries.type}, or missing ones")


def _is_compressed(message: bytes) -> bool:
    """Whether the metadata of a record batch names a compression."""
    header = _field(message, _table(message, 0), _HEADER)
    return header is not None and _field(message, _table(message, header), _COMPRESSION) is not None


def _table(data: bytes, at: int) -> int:
    """Where the table lies that the offset at `at` points to."""
    return at + int(struct.unpack_from("<I", data, at)[0])


def _field(data: bytes, table: int, number: int) -> int | None:
    """Where a table's field lies; None if it has none."""
    fields = table - int(struct.unpack_from("<i", data, table)[0])
    n_bytes = int(struct.unpack_from("<H", data, fields)[0])
    place = 4 + 2 * number
    offset = int(struct.unpack_from("<H", data, fields + place)[0]) if place + 2 <= n_bytes else 0
    return table + offset if offset else None
