"""Labels of a store's rows by their tokens alone: 1, 0, or none where a task says nothing of such a token."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.evaluation.probing.drawing import UNLABELLED
from strata_sae.stores import Token

_FIRST_LETTER = "first_letter_"
_NEXT = "next_"


class TokenRows(NamedTuple):
    """The token map of consecutive rows."""

    token_id: np.ndarray
    document: np.ndarray
    position: np.ndarray


def labels(task: str, rows: TokenRows, tokens: Mapping[int, Token]) -> np.ndarray:
    """1, 0 or UNLABELLED for each row: int8 [N].

    `first_letter_<x>`: of tokens that begin with a letter of the English alphabet, after spaces. `digit`: digits alone.
    `capitalised`: of tokens that begin with a letter. `starts_word`: of tokens that begin with a letter, whether no
    letter or digit comes directly before it. `next_...`: what that task says of the next token of the same document;
    `next_punctuation`: it begins, after spaces, with neither letter nor digit. Special tokens have no label.
    """
    if task.startswith(_NEXT):
        return _of_the_next(_Spelt(tokens).punctuation if task == "next_punctuation" else None, task, rows, tokens)
    if task == "starts_word":
        return _starts_word(rows, _Spelt(tokens))
    spelt = _Spelt(tokens)
    letter = task.removeprefix(_FIRST_LETTER)
    of_token: Callable[[int], int] = {"digit": spelt.digit, "capitalised": spelt.capitalised}.get(
        task, lambda token_id: spelt.first_letter(token_id, letter)
    )
    return _by_token(of_token, rows.token_id)


def _by_token(of_token: Callable[[int], int], token_id_N: np.ndarray) -> np.ndarray:
    found, place_N = np.unique(token_id_N, return_inverse=True)
    return np.array([of_token(int(token_id)) for token_id in found], np.int8)[place_N]


def _of_the_next(
    of_token: Callable[[int], int] | None, task: str, rows: TokenRows, tokens: Mapping[int, Token]
) -> np.ndarray:
    """The label of the row that follows in the same document."""
    own = _by_token(of_token, rows.token_id) if of_token else labels(task.removeprefix(_NEXT), rows, tokens)
    follows = (rows.document[1:] == rows.document[:-1]) & (rows.position[1:] == rows.position[:-1] + 1)
    special = _by_token(lambda token_id: UNLABELLED if _text(tokens, token_id) is None else 0, rows.token_id)
    shifted = np.where(follows & (special[:-1] == 0), own[1:], UNLABELLED)
    return np.append(shifted, UNLABELLED).astype(np.int8)


def _starts_word(rows: TokenRows, spelt: "_Spelt") -> np.ndarray:
    begins = _by_token(spelt.begins, rows.token_id)
    ends_in_word = _by_token(spelt.ends_in_word, rows.token_id)
    follows = (rows.document[1:] == rows.document[:-1]) & (rows.position[1:] == rows.position[:-1] + 1)
    # 1: a space comes before its letter; 0: it begins with a letter, so the token before decides; else no label.
    goes_on = np.append(False, follows & (ends_in_word[:-1] == 1))
    known = np.append(False, follows) | (rows.position == 0)  # the row before may be missing: a slice
    decided = np.where(known, np.where(goes_on, 0, 1), UNLABELLED)
    return np.where(begins == 0, decided, begins).astype(np.int8)


class _Spelt:
    """What single tokens are, by their ids."""

    def __init__(self, tokens: Mapping[int, Token]) -> None:
        self._tokens = tokens

    def first_letter(self, token_id: int, letter: str) -> int:
        """Whether it begins with `letter`, in either case."""
        first = (_text(self._tokens, token_id) or "").lstrip()[:1].lower()
        return int(first == letter) if first.isascii() and first.isalpha() else UNLABELLED

    def digit(self, token_id: int) -> int:
        """Whether it is digits alone."""
        text = (_text(self._tokens, token_id) or "").strip()
        return int(text.isdigit()) if text else UNLABELLED

    def capitalised(self, token_id: int) -> int:
        """Whether its first letter is a capital one."""
        first = (_text(self._tokens, token_id) or "").lstrip()[:1]
        return int(first.isupper()) if first.isalpha() else UNLABELLED

    def punctuation(self, token_id: int) -> int:
        """Whether it begins with neither letter nor digit."""
        first = (_text(self._tokens, token_id) or "").lstrip()[:1]
        return int(not first.isalnum()) if first else UNLABELLED

    def begins(self, token_id: int) -> int:
        """1: with a letter after a space; 0: with a letter."""
        text = _text(self._tokens, token_id) or ""
        if not text.lstrip()[:1].isalpha():
            return UNLABELLED
        return int(text[:1].isspace())

    def ends_in_word(self, token_id: int) -> int:
        """Whether its last character is a letter or a digit."""
        return int((_text(self._tokens, token_id) or " ")[-1:].isalnum())


def _text(tokens: Mapping[int, Token], token_id: int) -> str | None:
    """None of a special token, one that is part of a character, and one of which the vocabulary says nothing."""
    token = tokens.get(token_id)
    if token is None or token.special:
        return None
    try:
        return token.data.decode("utf-8")
    except UnicodeDecodeError:
        return None
