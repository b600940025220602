"""Annotations of texts by a concept: each text has its answer, and only its own."""

import json

from strata_sae.pipeline.endpoint.request import Request
from strata_sae.pipeline.interpretation.annotating import MOST_CHARACTERS, MOST_WORDS, annotate, annotate_all, shortened
from strata_sae.pipeline.interpretation.scorers.asking import N_SHOWN
from support.made_up_windows import Answering

TEXTS = [f"text {number}{' about trains' * (number % 3 == 0)}" for number in range(13)]


def shown(request: Request) -> list[str]:
    lines = request.messages[0].content.partition("Your task.")[2].partition("Texts:\n")[2].splitlines()[:N_SHOWN]
    return [json.loads(line.partition(": ")[2]) for line in lines]


def by_word(request: Request) -> str:
    """Yes to whatever holds the concept's word."""
    word = request.messages[0].content.partition("Your task.")[2].split('"')[1]
    return json.dumps([int(word in text) for text in shown(request)])


def test_each_text_has_its_own_answer() -> None:
    asks = Answering(by_word)
    assert annotate(asks, "judge", "trains", TEXTS, 0) == [number % 3 == 0 for number in range(13)]
    assert [len(call) for call in asks.calls] == [3]
    assert annotate(asks, "judge", "planes", TEXTS, 0) == [False] * 13
    assert annotate(asks, "judge", "trains", [], 0) == []


def test_many_concepts_are_asked_in_one_call() -> None:
    asks = Answering(by_word)
    found = annotate_all(asks, "judge", [("trains", TEXTS[:7]), ("planes", []), ("text", TEXTS[:2])], 0)
    assert found == [[number % 3 == 0 for number in range(7)], [], [True, True]]
    assert [len(call) for call in asks.calls] == [3]
    assert annotate_all(Answering(by_word), "judge", [], 0) == []


def test_what_cannot_be_read_is_none_for_its_texts_alone() -> None:
    asks = Answering(lambda request: "?" if "text 6" in shown(request)[1] else by_word(request))
    expected: list[bool | None] = [number % 3 == 0 for number in range(13)]
    expected[5:10] = [None] * 5
    assert annotate(asks, "judge", "trains", TEXTS, 0) == expected


def test_long_texts_are_cut_at_words() -> None:
    words = " ".join(f"w{number}" for number in range(MOST_WORDS + 5))
    assert shortened(words) == " ".join(f"w{number}" for number in range(MOST_WORDS))
    assert shortened("  two\n words ") == "  two\n words "
    assert len(shortened("x" * 10**6)) == MOST_CHARACTERS
    exact = " ".join(["w"] * MOST_WORDS)
    assert shortened(exact) == exact
