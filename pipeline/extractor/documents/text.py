"""Plain text files: one file is one document, or several with a separator between them."""

from collections.abc import Iterator

from strata_sae.pipeline.config.corpus import TextFiles
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents.document import BadRow, Document, Place
from strata_sae.pipeline.extractor.documents.files import decoded, pieces, printable, too_long
from strata_sae.pipeline.extractor.documents.finding import matching, refuse_json_lines, refuse_table


def read(source: TextFiles) -> Iterator[Document | BadRow]:
    """Each file, whole, with its own line ends; with a separator, each part of a file that is not blank.

    Raises: ConfigError at the end for a separator that is in none of the files.
    """
    found = False
    separator = source.separator.encode("utf-8") if source.separator is not None else None
    for path in matching(source.paths):
        refuse_table(path)
        refuse_json_lines(path)
        for number, (data, offset) in enumerate(pieces(path, separator)):
            where = f"{printable(path)}[{number}]" if separator else printable(path)
            place = Place(where, printable(path.name), number)
            found |= number > 0
            if data is None:
                yield BadRow(place, too_long() if separator else f"{too_long()}; if it holds several, set `separator`")
                continue
            text = decoded(data, place, offset)
            if isinstance(text, BadRow):
                yield text
            elif text.strip() or not separator:
                yield Document(place, text=text, origin=path)
    if separator and not found:
        hint = '; in YAML, only "\\n" in double quotes is a line feed' if b"\\" in separator else ""
        raise ConfigError(
            f"corpus.sources: separator: {source.separator!r} is in none of the files; correct or remove it{hint}"
        )
