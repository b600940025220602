"""A latent put into words: the request, and how its answer is read."""

import re
from collections.abc import Sequence

from strata_sae.pipeline.endpoint.request import Answered, Asks, Request, UnreadableError
from strata_sae.pipeline.interpretation.excerpts import Material
from strata_sae.pipeline.interpretation.prompts import ANSWER_BEGINS, EXAMPLE_ANSWER, PROMPT, question
from strata_sae.pipeline.interpretation.scorers.asking import answers_to

MOST_CHARACTERS = 500
"""Of an explanation; 20 words have about 120."""
STAND_IN = "forms of the verb to have before a participle, in sentences about what somebody has done"
"""What a dry run takes for an explanation: one of usual length."""
_LINE = re.compile(r"^[^\w\n]*explanation[^\w\n]*:[*_ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE)


def explain(asks: Asks, model: str, materials: Sequence[Material], seed: int) -> list[Answered[str]]:
    """The explanations of latents, in their order, asked for together. Raises: EndpointError as `asks.ask`."""
    requests = [explanation_request(model, material, seed) for material in materials]
    return answers_to(asks, requests, read_explanation, STAND_IN)


def explanation_request(model: str, material: Material, seed: int) -> Request | None:
    """The request that asks what a latent is about; None: no window shows it."""
    if not any(excerpt.is_active for excerpt in material.explain):
        return None
    return PROMPT.request(model, question(material), "explain", seed)


def read_explanation(text: str) -> str:
    """The words after EXPLANATION:, without marks of emphasis or quotes around them; what does not print is a blank.

    Raises: UnreadableError if no line begins so, if several do and differ, if the words are those of the example, which
        small models repeat, or if they are too many.
    """
    found = {_plain(words) for words in _LINE.findall(text)} - {""}
    if not found:
        raise UnreadableError(f"no line begins with {ANSWER_BEGINS} and goes on in words")
    if len(found) > 1:
        raise UnreadableError(f"{len(found)} lines begin with {ANSWER_BEGINS}; give one")
    explanation = found.pop()
    if explanation == EXAMPLE_ANSWER:
        raise UnreadableError("that is the answer to the example; say it of your task in other words")
    if len(explanation) > MOST_CHARACTERS:
        raise UnreadableError(f"the explanation has more than {MOST_CHARACTERS} characters; use at most 20 words")
    return explanation


def _plain(words: str) -> str:
    printed = "".join(letter if letter.isprintable() else " " for letter in words)
    return " ".join(printed.split()).strip('*_"`\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK} ')
