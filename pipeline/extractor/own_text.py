"""Which characters of a rendered chat, and which tokens, are the messages' own, and which the template's.

Marks in the place of the messages' strings show what a template writes around them.
"""

import json
import re
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.extractor.documents.document import Cell

Span = tuple[int, int]
Messages = list[dict[str, Cell]]

# Short words of a fixed form, which templates compare, measure or count: with a mark in their place a template would
# write other text around it.
_NEVER_MARKED = {"role", "type", "name", "id", "tool_call_id"}
MARK = re.compile("\ue000([0-9]+)\ue001")


class Own(NamedTuple):
    """A string that a message says."""

    text: str
    message: int
    is_content: bool
    """Of `content`, which a template may not drop; reasoning of earlier turns it may."""


class Skeleton(NamedTuple):
    """What a template writes around the messages' strings."""

    texts: list[str]
    """One more than numbers."""
    numbers: list[int]
    """Which string stands after each text but the last."""


def marked(messages: Messages) -> tuple[Messages, list[Own]]:
    """The messages with marks in place of their strings, and these: contents, reasoning, arguments of tool calls.

    Marks show what is template: a search for the strings alone would take the role header of a message whose text is
    just "user" for its content. An empty string stays as it is, since templates ask whether there is content.
    """
    own: list[Own] = []

    def mark(value: Cell, message: int, key: str, is_content: bool) -> Cell:
        if isinstance(value, dict):
            return {name: mark(item, message, name, is_content) for name, item in value.items()}
        if isinstance(value, list):
            return [mark(item, message, key, is_content) for item in value]
        if not isinstance(value, str) or not value or key in _NEVER_MARKED:
            return value
        own.append(Own(value, message, is_content))
        return f"\ue000{len(own) - 1}\ue001"

    copies = [
        {key: mark(item, number, key, key == "content") for key, item in message.items()}
        for number, message in enumerate(messages)
    ]
    return copies, own


def located(rendered: str, around: Skeleton, own: list[Own]) -> tuple[list[Span], int | None]:
    """The spans of the messages' strings, in order; and the message whose content was dropped or rewritten, if any."""
    spans: list[Span] = []
    cursor = 0
    for before, number, after in zip(around.texts, around.numbers, around.texts[1:], strict=False):
        start = cursor + len(before) if rendered.startswith(before, cursor) else cursor
        span = _locate(rendered, own[number], start, after)
        if span is not None:
            spans.append(span)
            cursor = span[1]
        elif own[number].is_content:
            return spans, own[number].message
    lost = set(range(len(own))) - set(around.numbers)
    return spans, min((own[number].message for number in lost if own[number].is_content), default=None)


def _locate(rendered: str, own: Own, start: int, after: str) -> Span | None:
    """Where the string lies: at `start` and followed by `after`, or else the first place from `start` on."""
    text = own.text
    quoted = json.dumps(text, ensure_ascii=False)[1:-1]  # as the arguments of tool calls are written
    # Templates often trim.
    candidates = dict.fromkeys((text, text.strip(), text.lstrip(), text.rstrip(), quoted))
    for candidate in candidates:
        if rendered.startswith(candidate + after, start):
            return start, start + len(candidate)
    for candidate in candidates:
        found = rendered.find(candidate, start)
        # A string that may be absent is searched only if it is long: the template itself may hold the same short one.
        if found >= 0 and (own.is_content or len(candidate) > 16):
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
    # A tokenizer may leave a space out of a token's offsets; the space still belongs to the token.
    starts = np.minimum(bounds[:, 0], np.concatenate([[0], stops[:-1]]))
    return content_before[stops] == content_before[starts]
