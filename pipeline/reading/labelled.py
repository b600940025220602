"""Labelled rows: an ordinary store of one token of each labelled text, whose extras say what every row stands for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import JsonValue, ValidationError

from strata_sae.pipeline.config.run import RunConfig
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.paths import data_root
from strata_sae.pipeline.runs.records import Count, Group, Width
from strata_sae.stores import MANIFEST, ActivationStore
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import canonical_json, parse_json
from strata_sae.stores.files.hashing import sha256

LABELS = "labels.json"
"""Extra of the store: `LabelledPart`."""
ARRAYS = "labels.safetensors"
"""Extra of the store: what each row is, an array [N, ...] for each name."""

LabelledKind = Literal["probing", "first_letter"]


class LabelledPart(Group):
    """labels.json: everything that rows and labels depend on."""

    kind: LabelledKind
    name: str
    """Of the task."""
    model: dict[str, JsonValue]
    """What a plan records of its model."""
    sites: list[str]
    n_train: Count
    """The rows before this one are for training, the others for testing."""
    max_tokens: Width
    """Tokens of a text that the model saw at most, BOS included (count)."""
    truncate: Literal["left", "right"]
    """The side at which longer texts were cut."""
    prepend_bos: bool
    texts_sha256: str
    """Of all texts, and which token of each was kept."""
    labels_sha256: dict[str, str]
    """Array of labels.safetensors -> sha256 of its shape, type and bytes."""
    details: dict[str, JsonValue]
    """The caller's: names of classes, where the texts come from."""

    def folder_name(self) -> str:
        """`<kind>-<hash>`: other rows or labels have another name."""
        return f"{self.kind}-{sha256(self.spelt())[:16]}"

    def spelt(self) -> bytes:
        """The bytes of labels.json."""
        return canonical_json(self.model_dump(mode="json"))


class LabelledRows(NamedTuple):
    """A labelled store, opened."""

    store: ActivationStore
    about: LabelledPart
    labels: dict[str, np.ndarray]
    """Name -> array [N, ...]: row n of the store is what entry n says."""

    def rows(self, site: str, split: Literal["train", "heldout"] | None = None) -> np.ndarray:
        """Rows of a site as float32 [n, M]: of a split, or all."""
        first, last = (0, self.store.plan.n_rows) if split is None else self.store.plan.splits[split]
        return self.store.float_rows(site, first, last)


def labelled_root(config: RunConfig) -> Path:
    """`data/<run>.labelled`: where the labelled stores of a run lie, one folder each."""
    return data_root() / f"{config.name}.labelled"


def open_labelled(path: Path) -> LabelledRows:
    """A labelled store, if its labels are those that were written, and one for each row.

    Raises: StoreError if it is no store, is damaged, or holds no labels.
    """
    store = ActivationStore.open(path)
    try:
        about = LabelledPart.model_validate(parse_json(store.extra(LABELS), path / LABELS))
        arrays = safetensors.numpy.load(store.extra(ARRAYS))
    except (ValidationError, safetensors.SafetensorError) as error:
        first = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise StoreError(
            f"{path}: holds no labels of ours ({first}); delete it and run evaluate --with-model"
        ) from None
    lengths = {name: len(values) for name, values in arrays.items()}
    if wrong := {name: n for name, n in lengths.items() if n != store.plan.n_rows}:
        raise StoreError(
            f"{path}: {store.plan.n_rows} rows, but labels {wrong}; delete it and run evaluate --with-model"
        )
    return LabelledRows(store, about, arrays)


def labelled_stores(root: Path, kind: LabelledKind) -> Iterator[Path]:
    """The finished labelled stores of a kind, by the names of their folders."""
    yield from (path.parent for path in sorted(root.glob(f"{kind}-*/{MANIFEST}")))


_IDENTITY = ("weights_sha256", "config_sha256", "dtype", "attention")
"""Of a model's record: equal where its activations are; the tokenizer is looked at by its own hash."""


def check_same_model(labelled: LabelledRows, store: ActivationStore) -> None:
    """Whether the rows come from the model that the store's rows come from. Raises: CheckpointError."""
    then, now = store.plan.provenance.get("model"), labelled.about.model
    if not isinstance(then, dict):
        raise CheckpointError(
            f"{labelled.store.path}: {store.path} does not say which model made it, so labelled rows cannot be compared"
        )
    for key in _IDENTITY:
        if key in then and then[key] != now.get(key):
            raise CheckpointError(
                f"{labelled.store.path}: model.{key}: is {str(now.get(key))[:16]}, but the store's is "
                f"{str(then[key])[:16]}; delete it and run evaluate --with-model"
            )


def array_sha256(values: np.ndarray) -> str:
    """sha256 (hex) of the shape, the type and the bytes of an array."""
    head = f"{values.dtype.str}{list(values.shape)}".encode()
    return sha256(head + np.ascontiguousarray(values).tobytes())
