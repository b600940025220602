"""Single tokens as text that people can read."""

import re
from collections.abc import Iterable
from typing import Any

from stores.vocabulary import Token

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def token_texts(tokenizer: Any, ids: Iterable[int]) -> dict[int, str]:
    """{token id: text}, for display: " the" and not "Ġthe"; special tokens by their name.

    A token that holds part of a character has U+FFFD in its place; an id the tokenizer does not know is `<id>`.
    """
    return {token_id: token.text for token_id, token in token_bytes(tokenizer, ids).items()}


def token_bytes(tokenizer: Any, ids: Iterable[int]) -> dict[int, Token]:
    """{token id: its bytes}; special tokens, and ids the tokenizer does not know, by a name.

    The joined bytes of a text's tokens are the text, where the tokenizer loses nothing.
    """
    wanted = sorted(set(ids))
    pieces = tokenizer.convert_ids_to_tokens(wanted)
    named = tokenizer.get_added_vocab().keys() | set(tokenizer.all_special_tokens)
    # Byte-level tokenizers spell bytes as printable characters; the tokenizer's own decoder says whether this is one.
    byte_level = "ByteLevel" in repr(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None))
    bytes_of = _bytes_of_characters() if byte_level else {}

    def token(token_id: int, piece: str | None) -> Token:
        if piece is None:
            return Token(f"<{token_id}>".encode(), special=True)
        if piece in named:
            return Token(piece.encode(), special=True)
        if byte_level:
            return Token(b"".join(bytes_of.get(char, char.encode()) for char in piece), special=False)
        if byte := _BYTE.fullmatch(piece):
            return Token(bytes([int(byte[1], 16)]), special=False)
        return Token(piece.replace("\u2581", " ").encode(), special=False)

    return {token_id: token(token_id, piece) for token_id, piece in zip(wanted, pieces, strict=True)}


def _bytes_of_characters() -> dict[str, bytes]:
    """GPT-2's table: printable bytes stand for themselves, the other 68 for the characters from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): bytes([byte]) for byte in printable} | {
        chr(0x100 + index): bytes([byte]) for index, byte in enumerate(others)
    }
