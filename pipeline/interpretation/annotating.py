"""Which texts a concept fits, by a language model (HypotheSAEs 2.0.1, annotate.py)."""

import logging
from collections.abc import Sequence

from strata_sae.pipeline.endpoint.request import Asks, Request
from strata_sae.pipeline.interpretation.scorers.asking import N_SHOWN, filled
from strata_sae.pipeline.interpretation.scorers.detection import PROMPT
from strata_sae.pipeline.interpretation.scorers.trials import question_of, read_answer
from strata_sae.stores import permutation

log = logging.getLogger(__name__)

MOST_WORDS, MOST_CHARACTERS = 256, 4096
"""Of a text that is shown; HypotheSAEs has 256 words."""


def annotate_all(
    asks: Asks, model: str, tasks: Sequence[tuple[str, Sequence[str]]], seed: int
) -> list[list[bool | None]]:
    """Whether each concept fits each of its own texts, in one call of `asks.ask`; None: no answer that can be read.

    HypotheSAEs asks about one text in a request; here there are N_SHOWN in each, in an order that is drawn, so that
    texts which the caller sorted by what is tested are not shown sorted. Raises: EndpointError as `asks.ask`.
    """
    orders = [permutation(["annotating", seed, concept], len(texts)).tolist() for concept, texts in tasks]
    groups = [
        (place, order[at : at + N_SHOWN]) for place, order in enumerate(orders) for at in range(0, len(order), N_SHOWN)
    ]
    requests = [_request(model, tasks[place], numbers, seed) for place, numbers in groups]
    answers = asks.ask(requests, read_answer, [0] * N_SHOWN) if requests else []
    if n_left := sum(answer.failure == "budget" for answer in answers):
        log.warning(
            "%d of %d requests about documents were not sent, since the budget was spent: their documents count as "
            "failed, and the numbers are of the others; answers that came are kept: run the same again",
            n_left,
            len(requests),
        )
    found: list[list[bool | None]] = [[None] * len(texts) for _, texts in tasks]
    for (place, numbers), answer in zip(groups, answers, strict=True):
        if answer.value is not None:
            for number, named in zip(numbers, answer.value, strict=False):  # texts shown again have no further answer
                found[place][number] = bool(named)
    return found


def _request(model: str, task: tuple[str, Sequence[str]], numbers: Sequence[int], seed: int) -> Request:
    concept, texts = task
    question = question_of(concept, filled([shortened(texts[number]) for number in numbers]))
    return PROMPT.request(model, question, "annotate", seed)


def shortened(text: str) -> str:
    """The first MOST_WORDS words of a text, and of those MOST_CHARACTERS characters."""
    if len(text) > MOST_CHARACTERS:
        text = text[:MOST_CHARACTERS]
    words = text.split(maxsplit=MOST_WORDS)
    return text if len(words) <= MOST_WORDS else text[: len(text) - len(words[-1])].rstrip()
