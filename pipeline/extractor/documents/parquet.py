"""Parquet files: one row is one document."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from strata_sae.pipeline.config.corpus import Parquet
from strata_sae.pipeline.errors import ConfigError, one_line
from strata_sae.pipeline.extractor.documents.document import (
    BadRow,
    Cell,
    Document,
    Place,
    check_columns,
    from_row,
    no_column,
)
from strata_sae.pipeline.extractor.documents.files import compression, foreign, head_of, needed, printable
from strata_sae.pipeline.extractor.documents.finding import matching

BATCH_ROWS = 256  # as Python objects in memory at once
_MAGIC = (b"PAR1", b"PARE")


def read(source: Parquet) -> Iterator[Document | BadRow]:
    """Every row, in file order, a batch in memory at a time; rows are counted from 0."""
    for path in matching(source.paths):
        pyarrow = needed("pyarrow", path)
        parquet = needed("pyarrow.parquet", path)
        where = printable(path)
        _check_magic(path)
        try:
            with path.open("rb") as raw, parquet.ParquetFile(raw) as file:
                names = file.schema_arrow.names
                if source.column not in names:
                    raise ConfigError(f"{where}: {no_column(source.column, dict.fromkeys(names))}")
                check_columns(where, source.columns, names)
                # A template may read the columns beside the messages.
                columns = None if source.chat else list(dict.fromkeys([source.column, *source.columns]))
                row_number = 0
                for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                    for row in _rows(batch):
                        place = Place(f"{where}[{row_number}]", printable(path.name), row_number)
                        yield BadRow(place, row) if isinstance(row, str) else from_row(row, source, place, path)
                        row_number += 1
        except (OSError, ValueError, pyarrow.ArrowException) as error:  # ValueError: a column's name is no UTF-8
            raise ConfigError(f"{where}: is not a readable parquet file ({one_line(error)}); copy it again") from error


class RecordBatch(Protocol):
    """A `RecordBatch` of pyarrow, which has no types."""

    num_rows: int

    def to_pylist(self) -> list[dict[str, Cell]]:
        """The rows."""

    def slice(self, offset: int, length: int) -> "RecordBatch":
        """Some of the rows."""


def _rows(batch: RecordBatch) -> Iterator[dict[str, Cell] | str]:
    """The rows of a batch; in place of a row with a value that Python cannot hold, a line that says so."""
    try:
        yield from batch.to_pylist()
    except ValueError:
        # One value of a batch is enough: bytes that are no UTF-8 in a string, a date beyond the calendar.
        for number in range(batch.num_rows):
            try:
                yield batch.slice(number, 1).to_pylist()[0]
            except ValueError as error:
                yield f"holds a value that cannot be read ({error})"


def _check_magic(path: Path) -> None:
    """Raises: ConfigError saying what a file is that is no parquet file."""
    try:
        with path.open("rb") as file:
            begin = file.read(8)
    except OSError as error:
        raise ConfigError(f"{printable(path)}: cannot be read ({error})") from error
    if begin.startswith(_MAGIC):
        return
    head = head_of(path)
    what, packed = foreign(head), compression(begin)
    if head.lstrip()[:1] in (b"{", b"["):
        said = "holds JSON; set `kind: jsonl`"
    elif packed:
        said = f"is compressed with {packed}, as no parquet file is; unpack it first"
    elif what:
        said = f"is {what.name}; {what.advice}"
    else:
        said = "is not a readable parquet file (its first bytes are not PAR1); copy it again, or set another `kind`"
    raise ConfigError(f"{printable(path)}: {said}")
