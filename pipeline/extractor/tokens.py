"""Documents as token ids and flags."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.corpus import CorpusSettings
from pipeline.errors import ConfigError
from pipeline.extractor.chat import ChatTemplate, is_template
from pipeline.extractor.documents import Document
from pipeline.language_model import GivenBack

BOS = 1
SPECIAL = 2
TEMPLATE = 4

BATCH_DOCUMENTS = 256
BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class TokenisedDocument:
    """Token ids (int32) and flags (uint8, the sum of BOS, SPECIAL and TEMPLATE) of one document."""

    where: str
    origin: Path | str | None
    token_id: np.ndarray
    flags: np.ndarray


class DocumentTokenizer:
    """Turns documents into token ids, the same whatever they are batched with."""

    def __init__(self, tokenizer: Any, corpus: CorpusSettings) -> None:
        self._tokenizer = tokenizer
        self.given_back = GivenBack(tokenizer)
        self._template: ChatTemplate | None = None
        self._limit = corpus.context_length if corpus.mode == "sequential" else None
        self._bos: int | None = tokenizer.bos_token_id
        before = self._bos if corpus.prepend_bos else None
        after = tokenizer.eos_token_id if corpus.append_eos else None
        self._before = np.array([] if before is None else [before], dtype=np.int32)
        self._after = np.array([] if after is None else [after], dtype=np.int32)
        added = (token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special)
        self._special = np.array(sorted({*tokenizer.all_special_ids, *added}), dtype=np.int32)

    def tokenise(self, documents: Iterable[Document]) -> Iterator[TokenisedDocument]:
        """Each document in turn. Raises: ConfigError for a chat that the template refuses."""
        for batch in _batches(documents):
            chats = [document for document in batch if document.messages is not None]
            yield from self._chats(chats) if chats else self._texts(batch)

    def _texts(self, documents: list[Document]) -> Iterator[TokenisedDocument]:
        encoded = self._tokenizer(
            [document.text for document in documents],
            add_special_tokens=False,
            # Text that spells a special token ("<|im_start|>" in a tutorial) is text: only templates write such tokens.
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )
        for document, token_ids in zip(documents, encoded["input_ids"], strict=True):
            self.given_back.add(document.text or "", token_ids)
            token_id = np.concatenate([self._before, np.array(token_ids, dtype=np.int32), self._after])
            yield self._document(document, token_id, np.zeros(len(token_id), dtype=np.uint8))

    def _chats(self, documents: list[Document]) -> Iterator[TokenisedDocument]:
        if self._template is None:
            self._template = ChatTemplate(self._tokenizer)
        rendered = [self._template.render(document) for document in documents]
        encoded = self._tokenizer(
            [text for text, _ in rendered],
            # The template alone decides about BOS and EOS: it writes the ones the model was trained with.
            add_special_tokens=False,
            split_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        columns = zip(documents, rendered, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        for document, (text, spans), token_ids, offsets in columns:
            flags = is_template(offsets, spans, len(text)).astype(np.uint8) * np.uint8(TEMPLATE)
            yield self._document(document, np.array(token_ids, dtype=np.int32), flags)

    def _document(self, document: Document, token_id: np.ndarray, flags: np.ndarray) -> TokenisedDocument:
        flags = flags | np.isin(token_id, self._special).astype(np.uint8) * np.uint8(SPECIAL)
        # Where one token serves as BOS and as end of turn (GPT-2, SmolLM2), only the first of a document is its BOS.
        if len(token_id) and token_id[0] == self._bos:
            flags[0] = flags[0] & TEMPLATE | BOS
        return TokenisedDocument(document.where, document.origin, token_id[: self._limit], flags[: self._limit])


def without_short(documents: Iterator[TokenisedDocument], skip: bool) -> Iterator[TokenisedDocument | None]:
    """The documents of two tokens or more; None in place of a shorter one.

    Raises: ConfigError for a shorter one unless `skip`.
    """
    for document in documents:
        if len(document.token_id) >= 2:
            yield document
        elif skip:
            yield None
        else:
            raise ConfigError(
                f"{document.where}: {len(document.token_id)} token(s), BOS included; a document needs two or more: "
                f"remove it, or set corpus.short_documents: skip"
            )


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    n_characters = 0
    for document in documents:
        batch.append(document)
        n_characters += len(document.text or "") + sum(len(m["content"]) for m in document.messages or [])
        if len(batch) >= BATCH_DOCUMENTS or n_characters >= BATCH_CHARACTERS:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch
