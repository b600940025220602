"""The index of tokens: the rows of each, and which tokens a text means."""

import numpy as np
import pytest

from strata_sae.pipeline.queries import tokens as under_test
from strata_sae.pipeline.queries.tokens import MOST_CHARACTERS, MOST_MATCHES, TokenIndex
from strata_sae.stores import Token

WORDS = {
    3: Token(b" the", special=False),
    5: Token(b"the", special=False),
    8: Token(b" The", special=False),
    9: Token(b"other", special=False),
    11: Token(b" import", special=False),
    40: Token(b"<bos>", special=True),
    41: Token(b"\xe2\x82", special=False),
    2**31 - 1: Token(b"x" * 10_000, special=False),
}


def index(ids: list[int]) -> TokenIndex:
    return TokenIndex(np.array(ids, np.int32), WORDS)


@pytest.mark.parametrize("largest_table", [2**24, 0])
def test_rows_of_each_token_are_those_that_hold_it(monkeypatch: pytest.MonkeyPatch, largest_table: int) -> None:
    monkeypatch.setattr(under_test, "LARGEST_TABLE", largest_table)
    ids = np.random.default_rng(0).choice([3, 5, 9, 40, 41], 500).astype(np.int32)
    found = TokenIndex(ids, WORDS)
    assert found.ids.tolist() == [3, 5, 9, 40, 41]
    assert (found.ids[found.rank] == ids).all()
    for wanted in ([3], [9, 5], [3, 3], [], [7, 41]):
        assert found.rows_of(wanted).tolist() == np.flatnonzero(np.isin(ids, wanted)).tolist()


def test_more_tokens_than_sixteen_bits_count() -> None:
    ids = np.random.default_rng(1).integers(0, 90_000, 150_000).astype(np.int32)
    found = TokenIndex(ids, {})
    for wanted in (int(ids[0]), int(ids.max()), int(np.sort(ids)[70_000])):
        assert found.rows_of([wanted]).tolist() == np.flatnonzero(ids == wanted).tolist()
    every = found.rows_of(found.ids)
    assert every.tolist() == list(range(len(ids)))


def test_an_id_that_no_table_holds_is_ranked() -> None:
    found = index([2**31 - 1, 3, 2**31 - 1])
    assert (found.ids.tolist(), found.rank.tolist()) == ([3, 2**31 - 1], [1, 0, 1])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("the", [3, 5]),  # with a space before it and without
        (" the", [3]),  # as it was typed
        ("The", [8]),
        ("THE", [3, 5, 8]),  # but for case
        (" THE", [3, 8]),
        ("othe", [9]),
        ("he", [5, 3, 8, 9]),  # within: the shortest first
        ("<bos>", [40]),
        ("zz", []),
        ("", []),
    ],
)
def test_what_a_text_means(query: str, expected: list[int]) -> None:
    assert index([3, 5, 8, 9, 11, 40, 41]).matching(query) == expected


def test_only_tokens_that_occur_are_meant() -> None:
    assert index([5, 9]).matching("the") == [5]


def test_matches_are_bounded() -> None:
    words = {number: Token(f"a{number:05}".encode(), special=False) for number in range(500)}
    found = TokenIndex(np.arange(500, dtype=np.int32), words).matching("a0")
    assert found == list(range(MOST_MATCHES))


def test_texts_are_for_people() -> None:
    found = index([3, 41])
    assert found.text(3) == " the"
    assert found.text(41) == "\N{REPLACEMENT CHARACTER}"
    assert found.text(99) == "[99]"  # a store whose vocabulary does not say it
    assert found.text(2**31 - 1) == "x" * MOST_CHARACTERS + "\N{HORIZONTAL ELLIPSIS}"
