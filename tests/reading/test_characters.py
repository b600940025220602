"""Characters that are spread over tokens are shown whole, at the token that completes them."""

import pytest

from strata_sae.pipeline.reading.context import shown
from strata_sae.stores.format.vocabulary import Token

TEXT = "机器 naïve 👩‍👩‍👧 नमस्ते"


def tokens_of(text: str, n_bytes: int) -> list[Token]:
    data = text.encode()
    return [Token(data[start : start + n_bytes], special=False) for start in range(0, len(data), n_bytes)]


@pytest.mark.parametrize("n_bytes", [1, 2, 3, 5])
def test_no_character_is_lost_wherever_tokens_end(n_bytes: int) -> None:
    tokens = tokens_of(TEXT, n_bytes)
    texts = shown(tokens, 0, len(tokens))
    assert len(texts) == len(tokens)
    assert "".join(texts) == TEXT
    alone = "".join(token.text for token in tokens)
    assert "\ufffd" in alone, "the control: token by token, characters are lost"


def test_a_character_stands_at_the_token_that_completes_it() -> None:
    assert shown(tokens_of("a机b", 1), 0, 5) == ["a", "", "", "机", "b"]


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("more", range(4))
def test_characters_at_the_edges_of_what_is_shown_are_whole(first: int, more: int) -> None:
    tokens = tokens_of("机器机器", 1)
    last = 8 + more - 2
    texts = shown(tokens, first, last)
    assert len(texts) == last - first
    assert "\ufffd" not in "".join(texts)
    expected = "机器机器"[(first > 2) : -(-last // 3)]
    assert "".join(texts) == expected


def test_what_is_no_text_is_said_to_be_none() -> None:
    broken = [Token(b"a\xe6", special=False), Token(b"<s>", special=True), Token(b"\x9cb", special=False)]
    assert shown(broken, 0, 3) == ["a\ufffd", "<s>", "\ufffdb"]
    assert shown(broken, 0, 1) == shown(broken[:1], 0, 1) == ["a\ufffd"]
