"""What a token id stands for: bytes of text, or a name that no text spells."""

from typing import NamedTuple


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
