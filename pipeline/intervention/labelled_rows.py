"""Rows of labelled texts: the model runs over each text once, and one token of it is kept at every site of the run."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import safetensors.numpy
import torch
from pydantic import JsonValue

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.capture import Capture
from strata_sae.pipeline.language_model.loading import Description, describe, load, load_tokenizer
from strata_sae.pipeline.language_model.tokens_text import token_bytes
from strata_sae.pipeline.language_model.transformers_library import Tokenizer
from strata_sae.pipeline.once import made_once
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.reading.labelled import ARRAYS, LABELS, LabelledKind, LabelledPart, array_sha256
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import MANIFEST, ActivationStore, write_store
from strata_sae.stores.files.canonical import canonical_json
from strata_sae.stores.files.claims import is_claimed
from strata_sae.stores.files.hashing import sha256

log = logging.getLogger(__name__)

_SPECIAL = 2
"""Flag of a special token."""


class LabelledText(NamedTuple):
    """A text, and which of its tokens is kept."""

    text: str
    at: int = -1
    """Place among its tokens, BOS and truncation included; from the end where it is negative."""


class Cut(NamedTuple):
    """How texts become sequences of tokens."""

    max_tokens: int = 128
    """BOS included (count); at most what the model was made for."""
    truncate: Literal["left", "right"] = "left"
    """The side at which longer texts are cut."""
    prepend_bos: bool | None = None
    """None: where the model's own tokenizer does it."""


class Labeller:
    """A model that gives rows of labelled texts: it is loaded once, when the first text needs it.

    Args:
        root: the folder in which labelled stores lie.
        sites: all sites of the run.
    Raises: ConfigError if the model is not there, or has no such site.

    """

    def __init__(
        self, settings: ModelSettings, sites: Sequence[str], root: Path, *, show_progress: bool = False
    ) -> None:
        self._settings, self._sites, self._root, self._shown = settings, list(sites), root, show_progress

    @cached_property
    def description(self) -> Description:
        """Which model this is."""
        return describe(self._settings, self._sites)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's own."""
        return load_tokenizer(self._settings)

    @cached_property
    def _capture(self) -> Capture:
        return load(self._settings, self._sites)

    def store(
        self,
        kind: LabelledKind,
        name: str,
        texts: Sequence[LabelledText],
        labels: Mapping[str, np.ndarray],
        *,
        n_train: int,
        cut: Cut = Cut(),
        details: Mapping[str, JsonValue] | None = None,
        wait: bool = True,
    ) -> ActivationStore | None:
        """The store of one row for each text, at every site, in the order of the texts; one that is there is opened.

        Where another process makes it, this one waits for it, or returns None.

        Args:
            labels: name -> [N, ...], entry n of text n.
            n_train: so many texts are the split `train`, the rest is `heldout`.
            details: plain data that labels.json keeps, such as the names of the classes.
            wait: for another process that makes it; False: return None then.
        Raises: ConfigError if a text has no token at its place; StoreError if rows hold a NaN, or something else lies
            in the folder.

        """
        if wrong := {key: len(values) for key, values in labels.items() if len(values) != len(texts)}:
            raise ValueError(f"{len(texts)} texts, but labels {wrong}")
        cut = self._resolved(cut)
        about = LabelledPart(
            kind=kind,
            name=name,
            model=self.description.provenance,
            sites=self._sites,
            n_train=n_train,
            max_tokens=cut.max_tokens,
            truncate=cut.truncate,
            prepend_bos=bool(cut.prepend_bos),
            texts_sha256=sha256(canonical_json([[text, at] for text, at in texts])),
            labels_sha256={key: array_sha256(values) for key, values in labels.items()},
            details=dict(details or {}),
        )
        path = self._root / about.folder_name()
        maker = path.with_name(f".{path.name}.maker")
        if not wait and is_claimed(maker):
            return None

        self._root.mkdir(parents=True, exist_ok=True)
        make = partial(self._made, path, about, texts, labels, cut)
        return made_once(maker, f"{path}: rows of {name}", lambda: _found(path, about), make)

    def _made(
        self, path: Path, about: LabelledPart, texts: Sequence[LabelledText], labels: Mapping[str, np.ndarray], cut: Cut
    ) -> ActivationStore:
        rows, tokens = self._rows(texts, cut, about.name)
        store = write_store(
            path,
            rows,
            tokens=tokens,
            vocabulary=token_bytes(self.tokenizer, tokens["token_id"].tolist()),
            splits={"train": (0, about.n_train), "heldout": (about.n_train, len(texts))},
            extras={LABELS: about.spelt(), ARRAYS: safetensors.numpy.save(_contiguous(labels))},
        )
        log.info("%s: %s rows of %s", path, f"{len(texts):,}", about.name)
        return store

    def sequences(self, texts: Sequence[LabelledText], cut: Cut) -> list[list[int]]:
        """The token ids of each text as the model gets them. Text that spells a special token is text."""
        bos = self.tokenizer.bos_token_id
        before = [bos] if cut.prepend_bos and bos is not None else []
        room = cut.max_tokens - len(before)
        encoded = self.tokenizer(
            [text.text for text in texts],
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )
        ids = encoded.get("input_ids", [])
        return [before + (one[max(0, len(one) - room) :] if cut.truncate == "left" else one[:room]) for one in ids]

    def _resolved(self, cut: Cut) -> Cut:
        longest = min(cut.max_tokens, self.description.max_positions or cut.max_tokens)
        bos = self.tokenizer.bos_token_id
        if cut.prepend_bos is not None:
            return cut._replace(max_tokens=longest)
        own = self.tokenizer(["a"], add_special_tokens=True, return_attention_mask=False, verbose=False)
        return cut._replace(max_tokens=longest, prepend_bos=bos is not None and own["input_ids"][0][0] == bos)

    def _rows(
        self, texts: Sequence[LabelledText], cut: Cut, name: str
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Site -> rows [N, M] float32, and the fields of the token map."""
        sequences = self.sequences(texts, cut)
        places = [
            _place(text, ids, number, name) for number, (text, ids) in enumerate(zip(texts, sequences, strict=True))
        ]
        rows = {site: np.empty((len(texts), self.description.widths[site]), np.float32) for site in self._sites}
        with Progress(f"texts of {name}", len(texts), "text", shown=self._shown) as bar:
            for batch in _batches([len(ids) for ids in sequences], self._settings.batch_tokens):
                longest = max(len(sequences[n]) for n in batch)
                ids_BS = torch.zeros((len(batch), longest), dtype=torch.int64)
                for row, n in enumerate(batch):
                    ids_BS[row, : len(sequences[n])] = torch.as_tensor(sequences[n])
                at_B = torch.as_tensor([places[n] for n in batch], device=self._capture.device)
                for site, value_BSM in self._capture.forward(ids_BS).items():
                    kept_BM = value_BSM[torch.arange(len(batch), device=at_B.device), at_B]
                    rows[site][batch] = kept_BM.float().cpu().numpy()
                bar.advance(len(batch))
        token_id = np.array([ids[place] for ids, place in zip(sequences, places, strict=True)], np.int32)
        special = [number for number in self.tokenizer.all_special_ids if number is not None]
        return rows, {
            "token_id": token_id,
            "position": np.array(places, np.int32),
            "flags": np.isin(token_id, special).astype(np.uint8) * np.uint8(_SPECIAL),
        }


def _found(path: Path, about: LabelledPart) -> ActivationStore | None:
    """The finished store at a path, if it is of these very texts and labels."""
    if not (path / MANIFEST).is_file():
        return None
    store = ActivationStore.open(path)
    if LABELS not in store.extras or store.extra(LABELS) != about.spelt():
        return None
    log.info("%s: rows of %s made already, skipped", path, about.name)
    return store


def _place(text: LabelledText, ids: list[int], number: int, name: str) -> int:
    place = text.at + (len(ids) if text.at < 0 else 0)
    if not 0 <= place < len(ids):
        raise ConfigError(f"{name}: text {number} has {len(ids)} tokens, and none at place {text.at}; leave it out")
    return place


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Numbers of texts, the longest first, in batches of at most `batch_tokens` tokens with padding, or one text."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _contiguous(labels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(values) for name, values in labels.items()}  # safetensors writes memory
