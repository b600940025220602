"""Tokens as the bytes of text that they stand for, and whether these bytes, joined, are the text again."""

import re
from collections.abc import Callable, Iterable, Iterator

from strata_sae.pipeline.language_model.transformers_library import Tokenizer
from strata_sae.stores import Token

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_COUNTED_DOCUMENTS = 1000


def token_bytes(tokenizer: Tokenizer, ids: Iterable[int]) -> dict[int, Token]:
    """{token id: its bytes}, of " the" and not of "Ġthe"; special tokens by their name, unknown ids as `<id>`.

    The joined bytes of a text's tokens are the text, where the tokenizer loses nothing (see `GivenBack`).
    """
    wanted = sorted(set(ids))
    pieces = tokenizer.convert_ids_to_tokens(wanted)
    added = tokenizer.added_tokens_decoder
    special = set(tokenizer.all_special_ids)
    data_of = _spelling(tokenizer)

    def token(token_id: int, piece: str | bytes | None) -> Token:
        if piece is None:
            return Token(f"<{token_id}>".encode(), special=True)
        if isinstance(piece, bytes):  # from tokenizers like tiktoken
            return Token(piece, special=token_id in special)
        if token_id in special or token_id in added:
            # Added tokens are spelled as text even where all others spell bytes as characters.
            return Token(piece.encode(), special=token_id in special or added[token_id].special)
        return Token(data_of(piece), special=False)

    return {token_id: token(token_id, piece) for token_id, piece in zip(wanted, pieces, strict=True)}


class GivenBack:
    """Counts documents whose tokens' bytes, joined, are the text again; of a corpus, the first 1,000 documents."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: dict[int, Token] = {}
        self._n_documents = self._n_exact = self._n_but_for_space = 0

    @property
    def is_full(self) -> bool:
        """Whether further documents are not counted."""
        return self._n_documents == _COUNTED_DOCUMENTS

    def judge(self, text: str, token_ids: list[int]) -> tuple[bool, bool]:
        """Whether a text comes back, and whether it does after a space; `token_ids` are without BOS and EOS."""
        self._tokens |= token_bytes(self._tokenizer, set(token_ids) - self._tokens.keys())
        tokens = [self._tokens[token_id] for token_id in token_ids]
        found, expected = b"".join(token.data for token in tokens if not token.special), text.encode()
        return found == expected, found == b" " + expected

    def count(self, judged: tuple[bool, bool]) -> None:
        """Count one document."""
        if not self.is_full:
            self._n_documents += 1
            self._n_exact += judged[0]
            self._n_but_for_space += judged[1]

    def record(self) -> dict[str, int]:
        """{documents, exact, but_for_a_space_before}: counts; the last: texts that come back after a space."""
        return {"documents": self._n_documents, "exact": self._n_exact, "but_for_a_space_before": self._n_but_for_space}

    def lines(self) -> Iterator[str]:
        """The line of a plan about a tokenizer that loses text; none about one that loses none."""
        documents, exact, spaced = self.record().values()
        if exact < documents:
            line = f"the tokens of {exact:,} of the first {documents:,} documents give their text back byte for byte"
            line += f", of {spaced:,} more with a space put before it" if spaced else ""
            if lost := documents - exact - spaced:
                line += f"; the tokenizer changes the text of {lost:,} (case, spaces, characters it does not know)"
            yield line


def _spelling(tokenizer: Tokenizer) -> Callable[[str], bytes]:
    """How this tokenizer spells bytes in a token; its own decoder says which of four ways it is."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = repr(getattr(backend, "decoder", None))
    if decoder == "None":
        decoder = repr(getattr(backend, "pre_tokenizer", None))
    if "ByteLevel" in decoder:
        bytes_of = _bytes_of_characters()
        return lambda piece: b"".join(bytes_of.get(char, char.encode()) for char in piece)
    if "WordPiece" in decoder:
        return lambda piece: (piece[2:] if piece.startswith("##") else f" {piece}").encode()
    if "BPEDecoder" in decoder:  # like GPT-1's, which marks the ends of words
        return lambda piece: re.sub("</w>$", " ", piece).encode()
    return _of_sentencepiece


def _of_sentencepiece(piece: str) -> bytes:
    if byte := _BYTE.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    return piece.replace("\u2581", " ").encode()


def _bytes_of_characters() -> dict[str, bytes]:
    """GPT-2's table: printable bytes stand for themselves, the other 68 for the characters from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): bytes([byte]) for byte in printable} | {
        chr(0x100 + index): bytes([byte]) for index, byte in enumerate(others)
    }
