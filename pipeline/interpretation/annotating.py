"""Which texts a concept fits, by a language model (HypotheSAEs 2.0.1, annotate.py)."""

from collections.abc import Sequence

from strata_sae.pipeline.endpoint.request import Asks
from strata_sae.pipeline.interpretation.scorers.asking import N_SHOWN, filled
from strata_sae.pipeline.interpretation.scorers.detection import PROMPT
from strata_sae.pipeline.interpretation.scorers.trials import question_of, read_answer

MOST_WORDS, MOST_CHARACTERS = 256, 4096
"""Of a text that is shown; HypotheSAEs has 256 words."""


def annotate(asks: Asks, model: str, concept: str, texts: Sequence[str], seed: int) -> list[bool | None]:
    """Whether a concept fits each text; None: no answer that can be read. Raises: EndpointError as `asks.ask`."""
    return annotate_all(asks, model, [(concept, texts)], seed)[0]


def annotate_all(
    asks: Asks, model: str, tasks: Sequence[tuple[str, Sequence[str]]], seed: int
) -> list[list[bool | None]]:
    """Whether each concept fits each of its own texts, in one call of `asks.ask`. None and raises as `annotate`.

    HypotheSAEs asks about one text in a request; here there are N_SHOWN in each, in the order that is given: whoever
    sorted them by what is tested shows it to the model.
    """
    groups = [
        (place, concept, texts[at : at + N_SHOWN])
        for place, (concept, texts) in enumerate(tasks)
        for at in range(0, len(texts), N_SHOWN)
    ]
    requests = [
        PROMPT.request(model, question_of(concept, filled([shortened(text) for text in some])), "annotate", seed)
        for _, concept, some in groups
    ]
    answers = asks.ask(requests, read_answer, [0] * N_SHOWN) if requests else []
    found: list[list[bool | None]] = [[] for _ in tasks]
    for (place, _, some), answer in zip(groups, answers, strict=True):
        value = answer.value
        found[place] += [None if value is None else bool(value[number]) for number in range(len(some))]
    return found


def shortened(text: str) -> str:
    """The first MOST_WORDS words of a text, and of those MOST_CHARACTERS characters."""
    if len(text) > MOST_CHARACTERS:
        text = text[:MOST_CHARACTERS]
    words = text.split(maxsplit=MOST_WORDS)
    return text if len(words) <= MOST_WORDS else text[: len(text) - len(words[-1])].rstrip()
