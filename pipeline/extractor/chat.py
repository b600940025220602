"""Chats as text: the tokenizer's template, and which characters of it are the messages' own."""

import datetime
import re
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.extractor.documents import Document

Span = tuple[int, int]

# A template that prints the day would make a store that differs from day to day. The date is Llama 3.1's default.
TODAY = datetime.datetime(2024, 7, 26, tzinfo=datetime.UTC)


class ChatTemplate:
    """A tokenizer's chat template, applied to whole conversations.

    Raises: ConfigError where the tokenizer has no template, or cannot say which characters a token covers.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise ConfigError(
                "corpus.sources: chat: the model's tokenizer has no chat template; "
                "use an instruct model or `chat: false`"
            )
        if not tokenizer.is_fast:
            raise ConfigError(
                "corpus.sources: chat: the model's tokenizer has no fast version, so template tokens cannot be told "
                "from content; use another model or `chat: false`"
            )
        self._tokenizer = tokenizer
        self._template = _undated(tokenizer.get_chat_template())
        self._skeletons: dict[tuple[str, ...], tuple[list[str], list[int]]] = {}

    def render(self, document: Document) -> tuple[str, list[Span]]:
        """The conversation as the model sees it, and the character spans of the messages' contents.

        Raises: ConfigError where the template refuses the conversation, or drops or rewrites a message's content.
        """
        messages = document.messages or []
        contents = [message["content"] for message in messages]
        rendered = self._apply(messages, document.where)
        texts, numbers = self._skeleton(tuple(message["role"] for message in messages), document.where)
        spans: list[Span] = []
        cursor = 0
        for before, number, after in zip(texts, numbers, texts[1:], strict=False):
            start = cursor + len(before) if rendered.startswith(before, cursor) else cursor
            span = _locate(rendered, contents[number], start, after)
            if span is None:
                raise self._altered(document.where, number)
            spans.append(span)
            cursor = span[1]
        lost = set(range(len(contents))) - set(numbers)
        if lost:
            raise self._altered(document.where, min(lost))
        return rendered, spans

    def _skeleton(self, roles: tuple[str, ...], where: str) -> tuple[list[str], list[int]]:
        """The template's own texts around the contents, and the numbers of the messages between them."""
        if roles not in self._skeletons:
            # Markers in place of contents show what is template: searching for the contents alone would take the role
            # header of a message that says just "user" for its content.
            marked = [{"role": role, "content": f"\ue000{number}\ue001"} for number, role in enumerate(roles)]
            parts = re.split("\ue000([0-9]+)\ue001", self._apply(marked, where))
            self._skeletons[roles] = parts[::2], [int(number) for number in parts[1::2]]
        return self._skeletons[roles]

    def _apply(self, messages: list[dict[str, str]], where: str) -> str:
        try:
            return str(self._tokenizer.apply_chat_template(messages, chat_template=self._template, tokenize=False))
        except Exception as error:  # a template may raise anything: it is a program of the model's authors
            raise ConfigError(
                f"{where}: the tokenizer's chat template refuses these messages ({type(error).__name__}: {error}); "
                f"roles are {[message['role'] for message in messages]}; mend or remove this document"
            ) from error

    def _altered(self, where: str, number: int) -> ConfigError:
        return ConfigError(
            f"{where}: message {number}: the tokenizer's chat template drops or rewrites its content, so "
            f"template tokens cannot be told from content; mend or remove this document"
        )


def _undated(template: str) -> str:
    """The template with a `strftime_now` that always gives TODAY."""
    if "strftime_now" not in template:
        return template
    # A macro of the template's own language: transformers hands templates plain data only, never functions.
    fields = "".join(f"|replace('%{code}','{TODAY.strftime('%' + code)}')" for code in "aAbBdHIjmMpSyY")
    return "{% macro strftime_now(format) %}{{ format" + fields + " }}{% endmacro +%}" + template


def _locate(rendered: str, content: str, start: int, after: str) -> Span | None:
    """Where the content lies: at `start` and followed by `after`, or else the first place from `start` on."""
    candidates = dict.fromkeys((content, content.strip(), content.lstrip(), content.rstrip()))  # templates often trim
    for candidate in candidates:
        if rendered.startswith(candidate + after, start):
            return start, start + len(candidate)
    for candidate in candidates:
        found = rendered.find(candidate, start)
        if found >= 0:
            return found, found + len(candidate)
    return None


def is_template(offsets: list[Span], spans: list[Span], n_characters: int) -> np.ndarray:
    """Which tokens lie outside every span: bool, one a token. `offsets` are the characters of each token."""
    content_before = np.zeros(n_characters + 1, dtype=np.int64)
    for start, stop in spans:
        content_before[start + 1 : stop + 1] = 1
    np.cumsum(content_before, out=content_before)
    bounds = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    stops = bounds[:, 1]
    # Tokenizers may trim the space off a token's offsets: it belongs to the token all the same.
    starts = np.minimum(bounds[:, 0], np.concatenate([[0], stops[:-1]]))
    return content_before[stops] == content_before[starts]
