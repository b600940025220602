"""A text as the tokens that the model sees, as extraction would have made them."""

from collections.abc import Sequence
from typing import NamedTuple

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.tokens_text import token_bytes
from strata_sae.pipeline.language_model.transformers_library import Tokenizer
from strata_sae.pipeline.queries.asked_model import MOST_TOKENS
from strata_sae.pipeline.reading.context import shown
from strata_sae.stores import Token

MOST_CHARACTERS = 64 * MOST_TOKENS
"""Of a prompt: a text of more has more than MOST_TOKENS tokens in any language, and is not tokenised to count them."""


class Words(NamedTuple):
    """S tokens."""

    token_ids: list[int]
    texts: list[str]
    """For people, each character whole at the token that completes it."""
    is_special: list[bool]


class PromptTokens:
    """The tokenizer of a model, and whether texts begin with BOS."""

    def __init__(self, tokenizer: Tokenizer, with_bos: bool, max_positions: int | None) -> None:
        """with_bos: as the corpus of the store. max_positions: the longest sequence that the model was made for."""
        self._tokenizer = tokenizer
        self._bos = [tokenizer.bos_token_id] if with_bos and tokenizer.bos_token_id is not None else []
        self._longest = min(MOST_TOKENS, max_positions or MOST_TOKENS)
        self._max_positions = max_positions
        self._tokens: dict[int, Token] = {}

    def words(self, text: str, n_following: int = 0) -> Words:
        """A text's tokens. A special token that the text spells is text, as in extraction.

        n_following: tokens that are to come after it.
        Raises: ConfigError for a text that is empty, no Unicode, or longer than MOST_TOKENS or than the model takes.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ConfigError("TEXT: holds bytes that are no UTF-8; give text") from None
        if len(text) > MOST_CHARACTERS:
            raise ConfigError(f"TEXT: has {len(text):,} characters; a prompt has at most {MOST_TOKENS:,} tokens")
        encoded = self._tokenizer(
            [text], add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
        )
        (own,) = encoded["input_ids"]
        if not own:
            raise ConfigError("TEXT: is empty; give a text of at least one token")
        token_ids = [*self._bos, *own]
        if len(token_ids) > self._longest:
            raise ConfigError(
                f"TEXT: has {len(token_ids):,} tokens; at most {self._longest:,} can be shown to this model"
            )
        if self._max_positions is not None and len(token_ids) + n_following > self._max_positions:
            raise ConfigError(
                f"TEXT: has {len(token_ids):,} tokens, and {n_following:,} are to follow; the model was made for "
                f"{self._max_positions:,} in all"
            )
        return Words(token_ids, self.texts(token_ids), self.are_special(token_ids))

    def texts(self, token_ids: Sequence[int]) -> list[str]:
        """The texts of tokens that follow each other, for people."""
        return shown(self._of(token_ids), 0, len(token_ids)) if token_ids else []

    def alone(self, token_id: int) -> str:
        """The text of a token by itself: U+FFFD where it holds part of a character."""
        return self._of([token_id])[0].text

    def are_special(self, token_ids: Sequence[int]) -> list[bool]:
        """Whether each stands for no text (BOS, padding, roles of a chat)."""
        return [token.special for token in self._of(token_ids)]

    @property
    def end(self) -> int | None:
        """The token with which the model ends a text."""
        return self._tokenizer.eos_token_id

    def _of(self, token_ids: Sequence[int]) -> list[Token]:
        if new := {*token_ids} - self._tokens.keys():
            self._tokens |= token_bytes(self._tokenizer, new)
        return [self._tokens[token_id] for token_id in token_ids]
