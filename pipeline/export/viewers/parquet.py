"""Tables of parquet: latents for a map, (latent, row, value) for queries, and what the rows are.

`latents.parquet` opens in embedding-atlas (`--x x --y y --neighbors neighbors --text label`); all three in duckdb,
polars and pandas. Rows are numbered as in the store.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import ModuleType

import numpy as np

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.export.viewers.beside import nearest
from strata_sae.pipeline.export.viewers.spelling import spelled
from strata_sae.pipeline.export.viewers.subject import LatentCodes, Subject
from strata_sae.pipeline.queries.layout import pca
from strata_sae.stores.files.filesystem import naming

_PAIRS_A_GROUP = 2**20
"""Of a row group: 16 bytes each, and what pyarrow makes of them."""
_ROWS_AT_ONCE = 2**18
_NEAR = 15

Columns = dict[str, np.ndarray | Sequence[str | float | None] | Sequence[dict[str, list[float]]]]


class _Moments:
    """What is counted while the codes go by. Over the rows on which a latent is active, in float64."""

    def __init__(self, d_sae: int) -> None:
        self.count = np.zeros(d_sae, np.int64)
        self.largest, self.mean = np.zeros(d_sae, np.float32), np.zeros(d_sae)

    def counting(self, latents: Iterator[LatentCodes]) -> Iterator[LatentCodes]:
        """The same latents."""
        for codes in latents:
            self.count[codes.latent] = len(codes.rows)
            if len(codes.rows):
                self.largest[codes.latent] = codes.largest
                self.mean[codes.latent] = codes.values.mean(dtype=np.float64)
            yield codes


def write(subject: Subject, out: Path) -> None:
    """Fill an empty folder. Raises: ConfigError if pyarrow is not installed."""
    try:
        import pyarrow as pa
    except ModuleNotFoundError:
        raise ConfigError("--format parquet needs pyarrow: pip install 'strata-sae[parquet]'") from None
    moments = _Moments(subject.sae.d_sae)
    pairs = {"latent": pa.uint32(), "row": pa.int64(), "value": pa.float32()}
    _write(pa, out / "pairs.parquet", pairs, _pairs(moments.counting(subject.latents("parquet"))))
    number = {"latent": pa.uint32(), "label": pa.string()}
    words = {"explanation": pa.string(), "explained_by": pa.string(), "rating": pa.int8()}
    words |= dict.fromkeys(("balanced_accuracy", "lift"), pa.float32())
    near = pa.struct({"ids": pa.list_(pa.int64()), "distances": pa.list_(pa.float32())})
    single = dict.fromkeys(("f1", "f1_fit", "max"), pa.float32())
    double = dict.fromkeys(("density", "mean"), pa.float64())
    place = {"x": pa.float32(), "y": pa.float32(), "neighbors": near}
    types = number | single | double | {"active_rows": pa.int64()} | words | place
    _write(pa, out / "latents.parquet", types, [_latents(subject, moments)])
    rows = {"row": pa.int64(), "document": pa.int64(), "position": pa.int32(), "token_id": pa.int32()}
    rows |= {"token": pa.string(), "is_kept": pa.bool_()}
    _write(pa, out / "rows.parquet", rows, _rows(subject))


def _write(pa: ModuleType, path: Path, types: dict[str, object], groups: Iterable[Columns]) -> None:
    """One row group for each of these; nan becomes null."""
    from pyarrow.parquet import ParquetWriter

    schema = pa.schema(types)
    # A file of Python's, so that a full disk is an OSError with its number.
    with naming(path), path.open("xb") as file, ParquetWriter(file, schema, compression="zstd") as writer:
        for columns in groups:
            arrays = [pa.array(columns[name], type, from_pandas=True) for name, type in types.items()]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=2**31)


def _pairs(latents: Iterator[LatentCodes]) -> Iterator[Columns]:
    """Latents in order, each with its rows rising; those of one row group at a time."""
    part: list[LatentCodes] = []
    n_pairs = 0
    for codes in latents:
        part.append(codes)
        n_pairs += len(codes.rows)
        if n_pairs >= _PAIRS_A_GROUP:
            yield _joined(part)
            part, n_pairs = [], 0
    if part:
        yield _joined(part)


def _joined(part: list[LatentCodes]) -> Columns:
    latents = np.array([codes.latent for codes in part], np.uint32)
    return {
        "latent": np.repeat(latents, [len(codes.rows) for codes in part]),
        "row": np.concatenate([codes.rows for codes in part]),
        "value": np.concatenate([codes.values for codes in part]),
    }


def _latents(subject: Subject, moments: _Moments) -> Columns:
    E, labels = subject.sae.d_sae, subject.labels
    xy_E = pca(subject.sae.W_dec).xy
    near = chain.from_iterable(zip(*block, strict=True) for block in nearest(subject, _NEAR))
    return {
        "latent": np.arange(E, dtype=np.uint32),
        "label": [subject.label(latent) or None for latent in range(E)],
        "f1": labels.f1,
        "f1_fit": labels.f1_fit,
        "max": moments.largest,
        "density": moments.count / max(subject.n_kept, 1),
        "mean": moments.mean,
        "active_rows": moments.count,
        **_words(subject),
        "x": xy_E[:, 0],
        "y": xy_E[:, 1],
        # Cosine distances, as a map of directions has them.
        "neighbors": [{"ids": ids.tolist(), "distances": (1 - cosines).tolist()} for ids, cosines in near],
    }


def _words(subject: Subject) -> Columns:
    """What is known of each latent in words; null where nothing is."""
    found = [subject.explanations.of(latent) for latent in range(subject.sae.d_sae)]
    return {
        "explanation": [one and spelled(one.text) for one in found],
        "explained_by": [one and spelled(one.by) for one in found],
        "balanced_accuracy": [one and one.balanced_accuracy for one in found],
        "lift": [one and one.lift for one in found],
        "rating": [one and one.rating for one in found],
    }


def _rows(subject: Subject) -> Iterator[Columns]:
    text = subject.text
    for start in range(0, text.n_rows, _ROWS_AT_ONCE):
        some = slice(start, min(start + _ROWS_AT_ONCE, text.n_rows))
        yield {
            "row": np.arange(some.start, some.stop),
            "document": text.document[some],
            "position": text.position[some],
            "token_id": text.token_id[some],
            "token": [subject.word(token) for token in text.token_id[some].tolist()],
            "is_kept": subject.kept_N[some],
        }
