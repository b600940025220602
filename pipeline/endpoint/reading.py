"""An answer without the reasoning in it, and the second request after an answer that cannot be read."""

import re

from strata_sae.pipeline.endpoint.answers import Kept
from strata_sae.pipeline.endpoint.request import Message, Request

_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL | re.IGNORECASE)
_END = re.compile("</think>", re.IGNORECASE)
_MOST_QUOTED = 2000
"""Characters of an unreadable answer that are sent back: it may be as long as its limit lets it be."""


def spoken(text: str) -> str:
    """The text without what stands in <think>...</think>, as reasoning models write it, and without blanks around it.

    A block without </think> reaches to the end. A </think> alone ends what the prompt began: all before it is left out.
    """
    said = _THOUGHT.sub("", text)
    ends = [found.end() for found in _END.finditer(said)]
    return said[max(ends, default=0) :].strip()


def answer_in(kept: Kept) -> str:
    """What an answer says that can be read: of one that its limit of tokens ended, the last line is half, and is none.

    Half an explanation would be taken for one, and an array that the model weighed before it answered, for its answer.
    """
    is_whole = kept.ending != "cut"
    return spoken(kept.text if is_whole else kept.text[: kept.text.rfind("\n") + 1])


def repair_of(request: Request, said: str, missing: str) -> Request:
    """The request with the answer that could not be read, and what was missing in it."""
    quoted = said[:_MOST_QUOTED] or "(nothing)"  # templates refuse a turn without text
    again = f"That answer cannot be read: {missing}. Answer again, with nothing but what was asked for."
    messages = (*request.messages, Message("assistant", quoted), Message("user", again))
    return request._replace(messages=messages)


def estimated_tokens(request: Request) -> int:
    """Of a prompt, at four characters a token; servers count by the model's own tokens."""
    n_characters = sum(len(message.content) for message in request.messages)
    return -(-n_characters // CHARACTERS_A_TOKEN)


CHARACTERS_A_TOKEN = 4
"""English text in the vocabularies of today's models has 4 to 5; code and other languages have fewer."""
