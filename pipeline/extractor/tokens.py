"""Documents as token ids and flags: a text, a chat or a list of ids becomes the rows of one document."""

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np

from strata_sae.pipeline.config.corpus import CorpusSettings
from strata_sae.pipeline.extractor.chat import ChatTemplate, Rendered
from strata_sae.pipeline.extractor.documents.document import BadRow, Document
from strata_sae.pipeline.extractor.ngrams import ngrams_of
from strata_sae.pipeline.extractor.own_text import is_template
from strata_sae.pipeline.extractor.tokenising import Pool, n_cores
from strata_sae.pipeline.language_model.tokens_text import GivenBack
from strata_sae.pipeline.language_model.transformers_library import Encoded, Tokenizer
from strata_sae.pipeline.reading.document_columns import Value

BOS = 1
SPECIAL = 2
TEMPLATE = 4

# What the tokenizer gets at once: enough documents for its threads, and bounded memory where they are long.
BATCH_DOCUMENTS = 256
BATCH_CHARACTERS = 1 << 20
START_CHARACTERS = 1 << 26
"""Read before processes are started: these take 5 s of CPU each to start, and so many characters 25 s of tokenising."""
FEWEST_CORES = 4
"""With fewer, the tokenizer's own threads keep all of them busy."""

Batch = list[Document | BadRow]


@dataclass(frozen=True)
class TokenisedDocument:
    """Token ids (int32) and flags (uint8, the sum of BOS, SPECIAL and TEMPLATE) of one document."""

    where: str
    origin: Path | str | None
    token_id: np.ndarray
    flags: np.ndarray
    spelled: str | None = None
    """A special token that the document's own text spells, if it does: the first."""
    unread: tuple[str, ...] = ()
    """Fields of a chat that the template does not read."""
    system: str | None = None
    """What became of a chat's system prompt (see `Rendered`)."""
    ngrams: np.ndarray | None = None
    """Fingerprints (uint64) of its n-grams, where the corpus is deduplicated."""
    given_back: tuple[bool, bool] | None = None
    """Of a text that is judged: whether its tokens give it back, and whether they do after a space."""
    kept: dict[str, Value] | None = None
    """What its source's `columns` hold for it."""


class DocumentTokenizer:
    """Turns documents into token ids; how they are batched changes nothing."""

    def __init__(self, tokenizer: Tokenizer, corpus: CorpusSettings) -> None:
        self._tokenizer = tokenizer
        self.given_back = GivenBack(tokenizer)
        self._template: ChatTemplate | None = None
        self._opened, self._n_characters, self._judges = ExitStack(), 0, True
        self._skip_bad = corpus.bad_rows == "skip"
        self._ngram = None if corpus.deduplicate is None else corpus.deduplicate.n
        self._limit = corpus.context_length if corpus.mode == "sequential" else None
        self._bos = tokenizer.bos_token_id
        before = self._bos if corpus.prepend_bos else None
        after = tokenizer.eos_token_id if corpus.append_eos else None
        self._before = np.array([] if before is None else [before], dtype=np.int32)
        self._after = np.array([] if after is None else [after], dtype=np.int32)
        added = {token_id: str(token) for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
        # A special token with an empty name ("pad_token": "") has no id.
        named = {token_id for token_id in tokenizer.all_special_ids if token_id is not None}
        self._special = np.array(sorted({*named, *added}), dtype=np.int32)
        # The longest first, so that the search finds a token whole and not another one that it begins with.
        texts = sorted({*tokenizer.all_special_tokens, *added.values()} - {""}, key=lambda text: (-len(text), text))
        self._special_text = re.compile("|".join(map(re.escape, texts)) or "(?!)")

    def tokenise(self, rows: Iterable[Document | BadRow]) -> Iterator[TokenisedDocument | BadRow]:
        """Each document in turn, and each bad row in its place.

        Raises: BadRow for a document that the chat template or the vocabulary refuses, unless such rows are left out.
        """
        for results in self._results(_batches(rows)):
            for result in results:
                if isinstance(result, BadRow):
                    if not self._skip_bad:
                        raise result
                elif result.given_back is not None:
                    self.given_back.count(result.given_back)
                yield result

    def _results(self, batches: Iterator[Batch]) -> Iterator[list[TokenisedDocument | BadRow]]:
        """Of each batch, in order: by this process, or by several once there has been enough to pay for their start."""
        while self._n_characters < START_CHARACTERS or n_cores() < FEWEST_CORES:
            batch = next(batches, None)
            if batch is None:
                return
            self._n_characters += sum(map(_n_characters, batch))
            yield self.batch((batch, not self.given_back.is_full))
        yield from self._pool.map((batch, not self.given_back.is_full) for batch in batches)

    @cached_property
    def _pool(self) -> Pool[tuple[Batch, bool], list[TokenisedDocument | BadRow]]:
        return self._opened.enter_context(Pool(self.batch, n_cores()))

    def __enter__(self) -> "DocumentTokenizer":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._opened.close()

    def __getstate__(self) -> dict[str, object]:
        """Without the processes: it is sent to each of them."""
        return {name: value for name, value in vars(self).items() if name not in {"_opened", "_pool"}}

    def batch(self, task: tuple[Batch, bool]) -> list[TokenisedDocument | BadRow]:
        """Each document and each bad row of a batch; `task` says whether documents are judged for `given_back`."""
        rows, self._judges = task
        tokenised = self._tokenised([row for row in rows if isinstance(row, Document)])
        return [next(tokenised) if isinstance(row, Document) else row for row in rows]

    def _tokenised(self, documents: list[Document]) -> Iterator[TokenisedDocument | BadRow]:
        """A batch of one source: all are texts, all are chats, or all are token ids."""
        if documents and documents[0].messages is not None:
            return self._chats(documents)
        if documents and documents[0].token_ids is not None:
            return map(self._ids, documents)
        return self._texts(documents)

    def _texts(self, documents: list[Document]) -> Iterator[TokenisedDocument]:
        texts = [document.text or "" for document in documents]
        # Text that spells a special token ("<|im_start|>" in a tutorial) is text: only templates write such tokens.
        encoded = self._encoded(texts, split_special_tokens=True)
        for document, text, token_ids in zip(documents, texts, encoded.get("input_ids", []), strict=True):
            judged = self.given_back.judge(text, token_ids) if self._judges else None
            token_id = np.concatenate([self._before, np.array(token_ids, dtype=np.int32), self._after])
            yield self._document(document, token_id, 0, spelled=self._spelled(text), given_back=judged)

    def _chats(self, documents: list[Document]) -> Iterator[TokenisedDocument | BadRow]:
        rendered = [self._rendered(document) for document in documents]
        texts = [chat.text for chat in rendered if isinstance(chat, Rendered)]
        encoded = self._encoded(texts, split_special_tokens=False, with_offsets=True)
        tokens = zip(encoded.get("input_ids", []), encoded.get("offset_mapping", []), strict=True)
        for document, chat in zip(documents, rendered, strict=True):
            if isinstance(chat, BadRow):
                yield chat
                continue
            token_ids, offsets = next(tokens)
            template = is_template(offsets, chat.spans, len(chat.text)).astype(np.uint8) * np.uint8(TEMPLATE)
            spelled = next((found for own in chat.own if (found := self._spelled(own.text))), None)
            token_id = np.array(token_ids, dtype=np.int32)
            yield self._document(document, token_id, template, spelled, chat.unread, chat.system)

    def _rendered(self, document: Document) -> Rendered | BadRow:
        if self._template is None:
            self._template = ChatTemplate(self._tokenizer)
        try:
            return self._template.render(document)
        except BadRow as bad:
            return bad

    def _ids(self, document: Document) -> TokenisedDocument | BadRow:
        """Token ids as they are: BOS and EOS are added to texts only."""
        token_ids = document.token_ids or []
        for place, token_id in enumerate(token_ids):
            if token_id not in self._vocabulary:
                what = f"id {token_id} at place {place} is no token of the model's tokenizer"
                held = f"it has {len(self._vocabulary):,}, up to {max(self._vocabulary):,}"
                return BadRow(document.place, f"{what} ({held}); these ids were made by another one")
        return self._document(document, np.array(token_ids, dtype=np.int32), 0)

    @cached_property
    def _vocabulary(self) -> frozenset[int]:
        return frozenset(self._tokenizer.get_vocab().values())

    def _encoded(self, texts: list[str], *, split_special_tokens: bool, with_offsets: bool = False) -> Encoded:
        """Token ids by text, without BOS and EOS: these come from the config, or from the chat template."""
        if not texts:
            return {}
        return self._tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=split_special_tokens,
            return_offsets_mapping=with_offsets,
            return_attention_mask=False,
            verbose=False,
        )

    def _spelled(self, text: str) -> str | None:
        found = self._special_text.search(text)
        return found.group() if found else None

    def _document(
        self,
        document: Document,
        token_id: np.ndarray,
        template: np.ndarray | int,
        spelled: str | None = None,
        unread: tuple[str, ...] = (),
        system: str | None = None,
        given_back: tuple[bool, bool] | None = None,
    ) -> TokenisedDocument:
        flags = np.isin(token_id, self._special).astype(np.uint8) * np.uint8(SPECIAL) | np.uint8(template)
        # Where one token serves as BOS and as end of turn (GPT-2, SmolLM2), only the first of a document is its BOS.
        if len(token_id) and token_id[0] == self._bos:
            flags[0] = flags[0] & TEMPLATE | BOS
        limit = self._limit
        where, origin = document.place.where, document.origin
        ngrams = None if self._ngram is None else ngrams_of(document, self._ngram)
        kept = token_id[:limit], flags[:limit]
        return TokenisedDocument(where, origin, *kept, spelled, unread, system, ngrams, given_back, document.kept)


def _batches(rows: Iterable[Document | BadRow]) -> Iterator[Batch]:
    batch: Batch = []
    n_characters = 0
    for row in rows:
        batch.append(row)
        n_characters += _n_characters(row)
        if len(batch) >= BATCH_DOCUMENTS or n_characters >= BATCH_CHARACTERS:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch


def _n_characters(row: Document | BadRow) -> int:
    if isinstance(row, BadRow):
        return 0
    return len(row.text or "") + sum(len(str(message.get("content", ""))) for message in row.messages or [])
