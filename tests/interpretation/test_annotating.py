"""Annotations of texts by a concept: each text has its answer, and only its own."""

import json

from strata_sae.pipeline.endpoint.request import Request
from strata_sae.pipeline.interpretation.annotating import MOST_CHARACTERS, MOST_WORDS, annotate_all, shortened
from strata_sae.pipeline.interpretation.scorers.asking import N_SHOWN
from support.made_up_windows import Answering

TEXTS = [f"text {number}{' about trains' * (number % 3 == 0)}" for number in range(13)]


def shown(request: Request) -> list[str]:
    lines = request.messages[0].content.partition("Your task.")[2].partition("Texts:\n")[2].splitlines()[:N_SHOWN]
    return [json.loads(line.partition(": ")[2]) for line in lines]


def annotate(asks: Answering, concept: str, texts: list[str]) -> list[bool | None]:
    (found,) = annotate_all(asks, "judge", [(concept, texts)], 0)
    return found


def by_word(request: Request) -> str:
    """Yes to whatever holds the concept's word."""
    word = request.messages[0].content.partition("Your task.")[2].split('"')[1]
    return json.dumps([int(word in text) for text in shown(request)])


def test_each_text_has_its_own_answer() -> None:
    asks = Answering(by_word)
    assert annotate(asks, "trains", TEXTS) == [number % 3 == 0 for number in range(13)]
    assert [len(call) for call in asks.calls] == [3]
    assert annotate(asks, "planes", TEXTS) == [False] * 13
    assert annotate(asks, "trains", []) == []


def test_many_concepts_are_asked_in_one_call() -> None:
    asks = Answering(by_word)
    found = annotate_all(asks, "judge", [("trains", TEXTS[:7]), ("planes", []), ("text", TEXTS[:2])], 0)
    assert found == [[number % 3 == 0 for number in range(7)], [], [True, True]]
    assert [len(call) for call in asks.calls] == [3]
    assert annotate_all(Answering(by_word), "judge", [], 0) == []


def test_what_cannot_be_read_is_none_for_its_texts_alone() -> None:
    lost = TEXTS[6].split(" about")[0]
    asks = Answering(lambda request: "?" if lost in str(shown(request)) else by_word(request))
    found = annotate(asks, "trains", TEXTS)
    (of_lost,) = [shown(request) for request in asks.calls[0] if lost in str(shown(request))]
    assert found == [None if text in of_lost else "trains" in text for text in TEXTS]
    assert found.count(None) == len(set(of_lost)) in (3, 5)


def test_texts_are_not_shown_in_the_order_in_which_they_come() -> None:
    asks = Answering(by_word)
    annotate(asks, "trains", TEXTS)
    order = [text for request in asks.calls[0] for text in shown(request)][: len(TEXTS)]
    assert sorted(order) == sorted(TEXTS) != order
    annotate_all(asks, "judge", [("trains", TEXTS)], 1)
    assert asks.calls[0] != asks.calls[1]


def test_long_texts_are_cut_at_words() -> None:
    words = " ".join(f"w{number}" for number in range(MOST_WORDS + 5))
    assert shortened(words) == " ".join(f"w{number}" for number in range(MOST_WORDS))
    assert shortened("  two\n words ") == "  two\n words "
    assert len(shortened("x" * 10**6)) == MOST_CHARACTERS
    exact = " ".join(["w"] * MOST_WORDS)
    assert shortened(exact) == exact
