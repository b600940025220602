"""Plain text files: one file is one document."""

from collections.abc import Iterator

from pipeline.config.corpus import TextFiles
from pipeline.extractor.documents.document import Document
from pipeline.extractor.documents.files import chunks, decoded, matching


def read(source: TextFiles) -> Iterator[Document]:
    """Every file, whole, line ends as they are."""
    for path in matching(source.paths):
        yield Document(str(path), text=decoded(b"".join(chunks(path)), path, 0), origin=path)
