"""What a token id stands for: bytes of text, or a name that no text spells."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, as_text, canonical_json, parse_canonical
from strata_sae.stores.format.commits import read_listed
from strata_sae.stores.format.plan import PLAN, Plan

_MAX_TOKEN = 2**31


class Token(NamedTuple):
    """One entry of a vocabulary."""

    data: bytes
    """Bytes of the text; they may hold part of a character only. Of a special token: its name in UTF-8."""
    special: bool
    """Whether it stands for no text (BOS, padding, roles of a chat)."""

    @property
    def text(self) -> str:
        """The token alone, for people: U+FFFD where it holds part of a character."""
        return self.data.decode("utf-8", "replace")


def tokens_json(tokens: Mapping[int, Token]) -> bytes:
    """The bytes of token_bytes.json: {"17": "20746865", "0": {"special": "<s>"}}; ordinary tokens in hex."""
    return canonical_json({str(number): _value(token) for number, token in tokens.items()})


def _value(token: Token) -> Json:
    return {"special": token.text} if token.special else token.data.hex()


def read_tokens(store: Path, plan: Plan) -> dict[int, Token]:
    """What every token id that occurs stands for.

    A store of version 1 knows the text of a token alone: with U+FFFD where it held part of a character, and without
    saying which tokens are special.

    Raises: StoreError if the file is not the plan's, or holds anything else.
    """
    name = plan.vocabulary_file
    data = read_listed(store, name, plan.files[name].sha256, by=PLAN)
    return parse_tokens(data, store / name, _text if plan.version == 1 else _token)


def parse_tokens(data: bytes, where: Path, parse: Callable[[Json], Token] | None = None) -> dict[int, Token]:
    """Tokens by id from the bytes that `tokens_json` makes; `parse`: what reads a value. Raises: StoreError."""
    tokens = {}
    for key, value in parse_canonical(data, where).items():
        try:
            tokens[_number(key)] = (parse or _token)(value)
        except ValueError as error:
            raise StoreError(f"{where}: token {key[:40]!a}: {error}") from None
    return tokens


def _number(key: str) -> int:
    if not (key.isascii() and key.isdigit() and str(number := int(key[:10])) == key and number < _MAX_TOKEN):
        raise ValueError("is no token id")
    return number


def _text(value: Json) -> Token:
    return Token(as_text(value).encode(), special=False)  # UnicodeEncodeError, of half a character, is a ValueError


def _token(value: Json) -> Token:
    if isinstance(value, dict) and set(value) == {"special"} and isinstance(value["special"], str):
        return Token(value["special"].encode(), special=True)
    if not isinstance(value, str) or (data := bytes.fromhex(value)).hex() != value:
        raise ValueError("is neither bytes in hex nor a special token")
    return Token(data, special=False)
