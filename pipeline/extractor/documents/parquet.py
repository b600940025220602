"""Parquet files: one row is one document."""

from collections.abc import Iterator

from pipeline.config.corpus import Parquet
from pipeline.errors import ConfigError
from pipeline.extractor.documents.document import Document, from_row
from pipeline.extractor.documents.files import matching, needed

BATCH_ROWS = 256


def read(source: Parquet) -> Iterator[Document]:
    """Every row, in file order, a batch in memory at a time; rows are counted from 0."""
    for path in matching(source.paths):
        pyarrow = needed("pyarrow", path)
        parquet = needed("pyarrow.parquet", path)
        try:
            with parquet.ParquetFile(path) as file:
                names = file.schema_arrow.names
                # An unknown name would be read as no column at all; the first row's check then names the known ones.
                columns = [source.column] if source.column in names else None
                row_number = 0
                for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                    for row in batch.to_pylist():
                        yield from_row(row, source.column, source.chat, f"{path}[{row_number}]", path)
                        row_number += 1
        except (OSError, pyarrow.ArrowException) as error:
            raise ConfigError(f"{path}: is not a readable parquet file ({error}); copy it again") from error
