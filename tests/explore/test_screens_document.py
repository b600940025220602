"""The document reader: its text is the store's, and each SAE says at a token what its codes say."""

import numpy as np
import pytest

from strata_sae.pipeline.explore.links import Links
from strata_sae.pipeline.explore.pages import page
from strata_sae.pipeline.explore.screen import BadValueError
from strata_sae.pipeline.explore.screens import SCREENS, document
from support.tree_run import CHILDREN, DOCUMENT_ROWS, NARROW, OTHERS, PARENT, WIDE, documents, make_tree, word_ids

SCREEN = next(screen for screen in SCREENS if screen.name == "document")
N_TOKENS = document.PAGE_TOKENS
WORDS = ["<bos>", *CHILDREN, *OTHERS]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("tree"))


def filled(world, number, **query):
    return document.fill(world, {"run": "tree", "document": str(number), **query})


@pytest.mark.parametrize("number", [0, 3, 17])
def test_the_text_is_that_of_its_rows(world, number):
    """Number 3 lies in two places, and numbers fall and rise over the store."""
    rows = np.flatnonzero(documents() == number)
    found = filled(world, number)
    assert found["n_tokens"] == len(rows) == (2 if number == 3 else 1) * DOCUMENT_ROWS
    assert [piece.row for piece in found["pieces"]] == rows.tolist()
    assert [piece.text for piece in found["pieces"]] == [WORDS[word] for word in word_ids()[rows]]
    assert found["row"] == rows[0]


def test_each_sae_says_what_its_codes_say(world):
    for row in range(60):
        for said in filled(world, documents()[row], row=str(row))["sayings"]:
            sae = world.runs["tree"].saes[said.sae]
            values = [float(sae.codes.values(e, np.array([row]))[0]) for e in range(sae.d_sae)]
            expected = sorted((-value, e) for e, value in enumerate(values) if value)
            assert [(-one.value, one.named.latent) for one in said.latents] == expected
            assert said.n_active == len(expected)
            assert said.is_left_out == (row % DOCUMENT_ROWS == 0)
            assert all(0 < one.share <= 1 for one in said.latents)


def test_long_documents_come_in_pages(world, monkeypatch):
    monkeypatch.setattr(document, "PAGE_TOKENS", 8)
    rows = np.flatnonzero(documents() == 3)
    found = filled(world, 3, row=str(rows[41]))
    assert (found["page"], found["n_pages"]) == (5, 8)
    assert [piece.row for piece in found["pieces"]] == rows[40:48].tolist()
    assert found["pages"] == [(n, rows[8 * n]) for n in (0, 3, 4, 5, 6, 7)]


def test_a_latent_colours_the_text(world):
    rows = np.flatnonzero(documents() == 0)
    sae = world.runs["tree"].saes[NARROW]
    found = filled(world, 0, sae=NARROW, latent=str(PARENT))
    assert [piece.value for piece in found["pieces"]] == sae.codes.values(PARENT, rows).tolist()
    assert found["top"] == sae.codes.rows_of(PARENT)[1].max()
    assert {piece.value for piece in filled(world, 0)["pieces"]} == {None}  # control: without one, no colour


@pytest.mark.parametrize(
    "query", [{"row": "x"}, {"row": "99999"}, {"sae": "none", "latent": "0"}, {"sae": WIDE, "latent": "13"}]
)
def test_what_cannot_be_understood(world, query):
    with pytest.raises(BadValueError):
        filled(world, 0, **query)


def test_a_row_of_another_document_shows_the_next_of_this(world):
    rows = np.flatnonzero(documents() == 3)
    gap = int(rows[np.flatnonzero(np.diff(rows) > 1)[0]]) + 1
    assert filled(world, 3, row=str(gap))["row"] == rows[rows > gap][0]
    with pytest.raises(KeyError):
        filled(world, 4)  # there is none


def test_the_page_stays_small_whatever_the_tokens(world, monkeypatch):
    """A page full of tokens of the longest text that is shown, each character of which is shown as a number."""
    monkeypatch.setattr(document, "_texts", lambda text, rows: [document.short("\u202e" * 10_000)] * len(rows))
    values = {"run": "tree", "document": "0", "sae": NARROW, "latent": "0"}
    sizes = []
    for n_tokens in (1, 30):
        monkeypatch.setattr(document, "PAGE_TOKENS", n_tokens)
        text = page(SCREEN, world, Links("/" + 32 * "t"), values)
        assert "\u202e" not in text
        sizes.append(len(text.encode()))
    a_token = (sizes[1] - sizes[0]) / 29
    assert 100 < a_token
    assert sizes[0] + N_TOKENS * a_token < 200_000
