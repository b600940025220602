"""The files of labels beside an SAE's codes: token_labels.json, what it names, and whether they are of these codes.

E latents, U tokens that occur in the store (by rank: their place among the ids, rising), Q pairs of a token and a
latent that fires on it.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs.chain import check_token_counts, read_token_labels
from strata_sae.pipeline.runs.evaluation_records import FilterPart
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.label_records import LabelHashes, LabelsOf, TokenLabelRecord
from strata_sae.pipeline.runs.records import Ending, SAERecord
from strata_sae.stores import Filters
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, as_int, as_list, as_object, as_text, parse_json
from strata_sae.stores.files.filesystem import write_bytes
from strata_sae.stores.files.hashing import sha256

N_NAMED = 8
"""Tokens of a set that a label names."""
LEAST_ROWS = 20
"""Active rows in each half of the documents, below which an F1 says little."""
DEFINITION = (
    "F1 = 2 TP / (PR + A) on documents of odd number, TP: rows of the set's tokens on which the latent fires, "
    "PR: rows of the set's tokens, A: rows on which it fires; the set is that of the largest F1 on documents of even "
    "number; over the rows that pass training's filters, of all splits"
)
MAX_HEADER_BYTES = 2**16
_NUMPY = {"I32": "<i4", "I64": "<i8", "U32": "<u4", "F32": "<f4"}


class Labels(NamedTuple):
    """Of each latent the set of tokens that tells best when it fires, fitted on half of the documents."""

    f1: np.ndarray
    """float32 [E]: on the other half; NaN: too few active rows in one of the halves."""
    f1_fit: np.ndarray
    """float32 [E]: on the half that the set was fitted on; NaN where f1 is."""
    n_tokens: np.ndarray
    """int32 [E]: size of the set; 0 where the latent never fires in the half it is fitted on."""
    token_ids: np.ndarray
    """int32 [E, 8]: those of the set on which the latent fires most often; -1: no more."""
    token_counts: np.ndarray
    """int32 [E, 8]: on how many rows of both halves."""


class TokenCounts(NamedTuple):
    """On how many rows of the population each latent fires on each token; only pairs that occur."""

    active: np.ndarray
    """int64 [E]: rows on which a latent fires."""
    rows: np.ndarray
    """int64 [U]: rows that hold a token."""
    offset: np.ndarray
    """int64 [U + 1]: a token has the pairs offset[rank] to offset[rank + 1] - 1."""
    latent: np.ndarray
    """uint32 [Q], rising in each token."""
    together: np.ndarray
    """uint32 [Q]: rows of the token on which the latent fires."""


_LABELS = {"f1": "F32", "f1_fit": "F32", "n_tokens": "I32", "token_ids": "I32", "token_counts": "I32"}
_COUNTS = {"active": "I64", "rows": "I64", "offset": "I64", "latent": "U32", "together": "U32"}


def write_arrays(folder: VariantFolder, labels: Labels, counts: TokenCounts) -> LabelHashes:
    """Write both files of arrays. Returns: the sha256 of each."""
    labels_data, counts_data = (safetensors.numpy.save(_plain(arrays)) for arrays in (labels, counts))
    write_bytes(folder.label_arrays, labels_data)
    write_bytes(folder.token_counts, counts_data)
    return LabelHashes(labels=sha256(labels_data), counts=sha256(counts_data))


def _plain(arrays: Labels | TokenCounts) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(array) for name, array in arrays._asdict().items()}


def labels_of(config: SAERecord, training: Ending, codes_id: str, filters: Filters) -> LabelsOf:
    """What the labels of an SAE's codes depend on."""
    return LabelsOf(
        sae=config.fingerprint,
        weights_sha256=training.sha256.weights,
        store_id=config.store_id,
        codes_id=codes_id,
        population="as_trained",
        filters=FilterPart(**asdict(filters)),
        fitted_on="even documents",
        least_rows=LEAST_ROWS,
        definition=DEFINITION,
    )


def label_record(
    folder: VariantFolder, config: SAERecord, training: Ending, wanted: LabelsOf
) -> TokenLabelRecord | None:
    """token_labels.json of an SAE; None where labels were not made.

    Raises: CheckpointError if it is of another SAE, other codes or other rows, or if it or the labels are damaged.
    """
    path = folder.token_labels
    if not path.exists():
        return None
    record = read_token_labels(folder, config, training).record
    for key, expected in wanted.model_dump().items():
        if getattr(record, key) != getattr(wanted, key):
            found, should = str(getattr(record, key))[:40], str(expected)[:40]
            raise CheckpointError(f"{path}: {key}: is {found}, but here it is {should}; {TokenLabelRecord.remedy}")
    return record


def read_labels(folder: VariantFolder, record: TokenLabelRecord) -> Labels:
    """The labels that a record names; its hash of them was compared. Raises: CheckpointError if they do not fit it."""
    path = folder.label_arrays
    arrays = _mapped(path, _LABELS)
    labels = Labels(**{name: np.array(array) for name, array in arrays.items()})
    shapes = [(record.n_latents,)] * 3 + [(record.n_latents, N_NAMED)] * 2
    if [array.shape for array in labels] != shapes:
        raise _unfit(path, "its arrays are not of this SAE's latents")
    return labels


def read_counts(folder: VariantFolder, record: TokenLabelRecord) -> TokenCounts:
    """The counts that a record names, left on the disk: what is asked for is read then.

    Raises: CheckpointError if they are damaged or do not fit the record.
    """
    path = folder.token_counts
    check_token_counts(folder, record)
    counts = TokenCounts(**_mapped(path, _COUNTS))
    fits = (
        counts.active.shape == (record.n_latents,)
        and counts.offset.shape == (len(counts.rows) + 1,)
        and counts.latent.shape == counts.together.shape == (int(counts.offset[-1]),)
        and int(counts.offset[0]) == 0
        and bool((np.diff(counts.offset) >= 0).all())
        and int(counts.latent.max(initial=0)) < max(record.n_latents, 1)
    )
    if not fits:
        raise _unfit(path, "its arrays do not fit each other")
    return counts


def _mapped(path: Path, dtypes: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file as a map of its bytes, which are read when they are looked at.

    The library's own reader copies what it reads. Raises: CheckpointError if the file holds anything else.
    """
    try:
        data = np.memmap(path, np.uint8, "r")
        n_header = int.from_bytes(data[:8].tobytes(), "little")
        if n_header > MAX_HEADER_BYTES:
            raise ValueError("its header is too long")
        header = as_object(parse_json(data[8 : 8 + n_header].tobytes(), path))
        header.pop("__metadata__", None)
        if header.keys() != dtypes.keys():
            raise ValueError(f"it holds {', '.join(map(repr, header))}")
        return {name: _array(data[8 + n_header :], header[name], kind) for name, kind in dtypes.items()}
    except (OSError, ValueError, KeyError, StoreError) as error:
        raise _unfit(path, str(error)) from None


def _array(data: np.ndarray, entry: Json, kind: str) -> np.ndarray:
    """One array of the bytes after the header. Raises: ValueError, KeyError if the entry is not what is expected."""
    fields = as_object(entry)
    if as_text(fields["dtype"]) != kind:
        raise ValueError("an array has another type")
    shape = [as_int(length) for length in as_list(fields["shape"])]
    start, stop = (as_int(place) for place in as_list(fields["data_offsets"]))
    if not 0 <= start <= stop <= len(data):
        raise ValueError("an array lies beyond its end")
    return data[start:stop].view(np.dtype(_NUMPY[kind])).reshape(shape)


def _unfit(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path}: {why}; {TokenLabelRecord.remedy}")
