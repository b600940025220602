"""The columns of the corpus that a store keeps for each document, gathered while documents are drawn."""

from collections.abc import Iterator, Sequence

from strata_sae.pipeline.config.corpus import HubDataset, JsonLines, Parquet, Source
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.reading.document_columns import DocumentColumns, Value


class KeptColumns:
    """What the sources' `columns` hold, by the running index of the documents."""

    def __init__(self, sources: Sequence[Source]) -> None:
        named = [source.columns for source in sources if isinstance(source, JsonLines | Parquet | HubDataset)]
        self._values: dict[str, list[Value]] = {name: [] for names in named for name in names}
        self._n_documents = 0

    def add(self, index: int, kept: dict[str, Value] | None) -> None:
        """What is kept of a document; of one that is drawn again, nothing changes. Indices come without gaps."""
        if index < self._n_documents:
            return
        self._n_documents = index + 1
        for name, values in self._values.items():
            values.append(None if kept is None else kept.get(name))

    def columns(self) -> DocumentColumns | None:
        """All of them; None where no source names any. Raises: ConfigError for one that no document has."""
        for name, values in self._values.items():
            if all(value is None for value in values):
                raise ConfigError(
                    f"corpus.sources: columns: {name!r}: no document that is stored has a value there; correct the name"
                )
        return DocumentColumns(self._values) if self._values else None

    def lines(self) -> Iterator[str]:
        """What the plan says of them."""
        for name, values in self._values.items():
            n_known = sum(value is not None for value in values)
            yield f"columns: {name}: kept for {n_known:,} of {len(values):,} documents"
