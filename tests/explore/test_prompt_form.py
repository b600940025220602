"""The form of the prompt screen: what it says becomes a question, or a sentence that says what is wrong with it."""

import asyncio
from urllib.parse import urlencode

import pytest

from strata_sae.pipeline.explore.asking import LONGEST_TEXT, MOST_EDITS, body_of, form_of, question_of
from strata_sae.pipeline.explore.prompts import Question
from strata_sae.pipeline.explore.screen import BadValueError
from strata_sae.pipeline.explore.security import LONGEST_BODY_BYTES
from strata_sae.pipeline.queries.asked_model import MOST_NEW_TOKENS, Edit

D_SAE = {"topk@a": 48, "wide@a": 96}


def form(**fields):
    rows = fields.pop("edits", [])
    pairs = [*fields.items(), *((name, value) for row in rows for name, value in zip(NAMES, row, strict=True))]
    return form_of(urlencode(pairs).encode())


NAMES = ("kind", "sae", "latent", "amount")


def test_a_form_becomes_a_question():
    typed = form(
        text="one\r\ntwo \u00e9\U0001f600",
        tokens="7",
        edits=[
            ("ablate", "topk@a", "5", "ignored"),
            ("", "topk@a", "6", "1"),
            ("clamp", "wide@a", "", "1"),
            ("steer", "wide@a", "95", " -2.5 "),
        ],
    )
    edits = (Edit("topk@a", 5, "ablate", 0.0), Edit("wide@a", 95, "steer", -2.5))
    assert question_of(typed, D_SAE) == Question("one\ntwo \u00e9\U0001f600", edits, 7)
    assert question_of(form(text="x"), D_SAE) == Question("x", (), 0)


CHANGE = ("clamp", "topk@a", "5", "1")
REFUSED = {
    "empty": ({"text": " \n"}, "text: is empty"),
    "long": ({"text": "x" * (LONGEST_TEXT + 1)}, "16,385 characters"),
    "NUL": ({"text": "a\0b"}, "NUL"),
    "tokens": ({"text": "x", "tokens": str(MOST_NEW_TOKENS + 1)}, "tokens: 513"),
    "no number of tokens": ({"text": "x", "tokens": "many"}, "tokens: many"),
    "kind": ({"text": "x", "edits": [("erase", *CHANGE[1:])]}, "change: erase"),
    "SAE": ({"text": "x", "edits": [("clamp", "topk@b", "5", "1")]}, "SAE: topk@b"),
    "latent": ({"text": "x", "edits": [("clamp", "topk@a", "48", "1")]}, "latent: 48"),
    "negative latent": ({"text": "x", "edits": [("clamp", "topk@a", "-1", "1")]}, "latent: -1"),
    "no amount": ({"text": "x", "edits": [("steer", "topk@a", "5", "")]}, "amount: missing"),
    "amount": ({"text": "x", "edits": [("steer", "topk@a", "5", "much")]}, "amount: much"),
    "NaN": ({"text": "x", "edits": [("steer", "topk@a", "5", "nan")]}, "amount: nan"),
    "infinite": ({"text": "x", "edits": [("steer", "topk@a", "5", "inf")]}, "amount: inf"),
    "huge": ({"text": "x", "edits": [("steer", "topk@a", "5", "1e7")]}, "amount: 1e7"),
    "endless amount": ({"text": "x", "edits": [("steer", "topk@a", "5", "1" + "0" * 100)]}, "no number"),
    "many": ({"text": "x", "edits": [CHANGE] * (MOST_EDITS + 1)}, "at most 8 latents"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_asked_is_said(case):
    fields, words = REFUSED[case]
    with pytest.raises(BadValueError) as refused:
        question_of(form(**fields), D_SAE)
    assert words in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "body",
    [b"text=x&kind=clamp", b"\xff\xfe", "text=\u00e9".encode(), b"&".join(b"a=%d" % n for n in range(100))],
    ids=["half an edit", "no ASCII", "UTF-8", "many fields"],
)
def test_what_no_form_sends_is_refused(body):
    with pytest.raises(BadValueError, match="not the form"):
        form_of(body)


def test_bytes_that_are_no_text_become_text():
    assert form_of(b"text=%FFx").text == "\ufffdx"


def test_a_body_is_read_up_to_its_limit():
    async def pieces(n_bytes):
        for start in range(0, n_bytes, 1000):
            yield b"x" * min(1000, n_bytes - start)

    assert len(asyncio.run(body_of(pieces(LONGEST_BODY_BYTES)))) == LONGEST_BODY_BYTES
    with pytest.raises(BadValueError, match="at most"):
        asyncio.run(body_of(pieces(LONGEST_BODY_BYTES + 1)))
