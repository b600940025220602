"""Windows: the text around a row as people read it, with the latent's values, as far as its document goes."""

import numpy as np
import pytest

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE, Text
from strata_sae.pipeline.queries.tokens import TokenIndex
from strata_sae.pipeline.queries.windows import stretch, texts, token_text, window, windows
from strata_sae.stores import Token
from support.brute_labels import dense
from support.coded_run import DOCUMENT_ROWS, N_ROWS, SITE, WORDS, make, opened


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> CodedRun:
    make(folder := tmp_path_factory.mktemp("coded"))
    return opened(folder)


@pytest.fixture(scope="module")
def sae(run: CodedRun) -> CodedSAE:
    return run.saes[f"topk@{SITE}"]


class MadeUp(Text):
    """A token map in memory."""

    def __init__(self, words: list[bytes], document: list[int], position: list[int]) -> None:
        self.n_rows = len(words)
        self.token_id = np.arange(len(words), dtype=np.int32)
        self.document, self.position = np.array(document), np.array(position, np.int32)
        vocabulary = {n: Token(word, special=word.startswith(b"<|")) for n, word in enumerate(words)}
        self.tokens = TokenIndex(self.token_id, vocabulary)


@pytest.mark.parametrize("row", [0, 3, DOCUMENT_ROWS - 1, DOCUMENT_ROWS, 605, N_ROWS - 1])
@pytest.mark.parametrize("reach", [(12, 8), (0, 0), (100, 100)])
def test_a_window_is_the_document_around_the_row(
    run: CodedRun, sae: CodedSAE, row: int, reach: tuple[int, int]
) -> None:
    values_NE = dense(run, sae)
    latent = int(values_NE[row].argmax())
    first = row - row % DOCUMENT_ROWS
    rows = range(max(first, row - reach[0]), min(first + DOCUMENT_ROWS, row + reach[1] + 1))
    found = window(run, sae, latent, row, *reach)
    assert (found.row, found.document, found.position) == (row, row // DOCUMENT_ROWS, row % DOCUMENT_ROWS)
    assert found.texts == [WORDS[run.text.token_id[other]] for other in rows]
    # BOS is what training's filters leave out: it has no value.
    expected = [float(values_NE[other, latent]) if other % DOCUMENT_ROWS else None for other in rows]
    assert found.values == expected
    assert rows[found.index] == row


def test_many_windows_are_those_of_each(run: CodedRun, sae: CodedSAE) -> None:
    rows = [5, 700, 5, 1199]
    assert windows(run, sae, 2, rows) == [window(run, sae, 2, row) for row in rows]
    assert windows(run, sae, 2, []) == []


def test_a_latent_that_is_silent_has_zeros(run: CodedRun, sae: CodedSAE) -> None:
    row = int(np.flatnonzero(dense(run, sae)[:, 7] == 0)[10])
    found = window(run, sae, 7, row, 0, 0)
    assert found.values in ([0.0], [None])


def test_rows_and_latents_that_are_not_there_are_refused(run: CodedRun, sae: CodedSAE) -> None:
    for row in (-1, N_ROWS):
        with pytest.raises(ConfigError, match=rf"row {row}: the store has rows 0 to {N_ROWS - 1}"):
            window(run, sae, 0, row)
    for latent in (-1, sae.d_sae):
        with pytest.raises(ConfigError, match=f"latent {latent}: .* has latents 0 to 47"):
            window(run, sae, latent, 0)


def test_a_stretch_ends_where_rows_no_longer_follow_each_other() -> None:
    # A document that comes twice, one after the other; rows of another that are not neighbours in it.
    text = MadeUp([b"a"] * 7, document=[1, 1, 1, 1, 2, 2, 2], position=[0, 1, 0, 1, 5, 6, 9])
    assert [stretch(text, row, 9, 9) for row in range(7)] == [(0, 2)] * 2 + [(2, 4)] * 2 + [(4, 6)] * 2 + [(6, 7)]


def test_characters_are_whole_at_the_token_that_completes_them() -> None:
    euro = "\N{EURO SIGN}".encode()
    words = [euro[:1], euro[1:2], euro[2:], b" x", b"<|end|>", euro[:1], euro[1:]]
    text = MadeUp(words, [0] * 7, list(range(7)))
    assert texts(text, 0, 7) == ["", "", "\N{EURO SIGN}", " x", "<|end|>", "", "\N{EURO SIGN}"]
    assert texts(text, 2, 4) == ["\N{EURO SIGN}", " x"]  # begins inside a character
    assert texts(text, 4, 6) == ["<|end|>", "\N{EURO SIGN}"]  # ends inside one
    assert [text.tokens.text(n) for n in (0, 3)] == ["\N{REPLACEMENT CHARACTER}", " x"]


def test_a_character_is_not_completed_from_another_document() -> None:
    euro = "\N{EURO SIGN}".encode()
    text = MadeUp([euro[:2], euro[2:], b"y"], [0, 1, 1], [0, 0, 1])
    assert texts(text, 0, 1) == ["\N{REPLACEMENT CHARACTER}"]
    assert texts(text, 1, 3) == ["\N{REPLACEMENT CHARACTER}", "y"]


def test_hostile_tokens_are_only_text(run: CodedRun) -> None:
    assert token_text(run, len(WORDS) - 1) == "<script>alert(1)</script>"
    assert token_text(run, 10**6) == "[1000000]"
