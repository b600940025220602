"""Tokens in a row as text that people can read, where a character may be spread over several of them."""

import codecs
from collections.abc import Sequence

from strata_sae.stores.format.vocabulary import Token

LONGEST_CHARACTER = 4
"""Bytes of UTF-8; a token holds at least one of them."""


def shown(tokens: Sequence[Token], first: int, last: int) -> list[str]:
    """The texts of tokens[first:last], each character whole, at the token that completes it.

    What lies before and after is read for the characters at the edges only: one that is completed after the last token
    is shown at the last. U+FFFD stands where the bytes are no UTF-8; a special token is shown by its name.
    """
    end = next((place for place in range(last, len(tokens)) if tokens[place].special), len(tokens))
    texts = _at_their_ends(tokens[:end])
    texts[last - 1] += next((text for text in texts[last:] if text), "")[:1] if _is_open(tokens[:last]) else ""
    return texts[first:last]


def _at_their_ends(tokens: Sequence[Token]) -> list[str]:
    """For each token, the characters that are complete with it and were not with the one before."""
    texts: list[str] = []
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    for token in tokens:
        if not token.special:
            texts.append(decode(token.data))
            continue
        broken = decode(b"", final=True)
        if broken:
            texts[-1] += broken
        texts.append(token.text)
    broken = decode(b"", final=True)
    if broken:
        texts[-1] += broken
    return texts


def _is_open(tokens: Sequence[Token]) -> bool:
    """Whether the last of these tokens ends inside a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        decoder.decode(b"", final=True) if token.special else decoder.decode(token.data)
    return bool(decoder.getstate()[0])
