"""How texts are shown to a model that judges them, and how its answer is read.

A text stands on one line as a JSON string, so that no text can end its line, begin another one, or look like a part of
the question. An answer is read for one JSON array of the right length alone; a second, different array, such as one
that a text held and the model repeated, makes the answer unreadable.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple, TypeVar

from strata_sae.pipeline.endpoint.request import Answered, Asks, Message, Request, UnreadableError

T = TypeVar("T")

N_SHOWN = 5
"""Texts of a request (count), as in delphi. With more of them a text costs fewer tokens, and answers are worse."""
ANSWER_TOKENS = 1024
"""Of an answer (count), at most. An array takes fewer than 20; reasoning models need the rest."""
MARKS = (("<<", ">>"), ("\N{LEFT DOUBLE ANGLE BRACKET}", "\N{RIGHT DOUBLE ANGLE BRACKET}"), ("[[[", "]]]"))
"""Around marked tokens: the first pair that no text of a request holds."""
NO_WINDOWS = "windows"
"""Why there is no explanation or rating: too few windows to ask about."""
_ARRAY = re.compile(r"\[[^\[\]]{0,400}\]")


def quoted(text: str) -> str:
    """The text as one line of JSON: quotes, ends of lines and whatever does not print are escaped."""
    line = json.dumps(text, ensure_ascii=False)
    return line if line.isprintable() else "".join(_shown(letter) for letter in line)


def _shown(letter: str) -> str:
    return letter if letter.isprintable() else json.dumps(letter)[1:-1]


def numbered(texts: Sequence[str]) -> str:
    """Texts, one on each line, counted from 1."""
    return "\n".join(f"{number}: {quoted(text)}" for number, text in enumerate(texts, start=1))


def filled(texts: Sequence[str]) -> list[str]:
    """N_SHOWN texts: where there are fewer, the first ones are shown again, so that every answer has one length."""
    return [texts[place % len(texts)] for place in range(N_SHOWN)]


def marks_for(texts: Sequence[str]) -> tuple[str, str]:
    """The first of MARKS that none of the texts holds; the last where all are held."""
    return next((pair for pair in MARKS if not any(mark in text for mark in pair for text in texts)), MARKS[-1])


def marked(tokens: Sequence[str], places: Collection[int], marks: tuple[str, str]) -> str:
    """The text of tokens with a pair of marks around each stretch of places."""
    begin, end = marks
    pieces: list[str] = []
    for place, token in enumerate(tokens):
        pieces += [begin] if place in places and place - 1 not in places else []
        pieces.append(token)
        pieces += [end] if place in places and place + 1 not in places else []
    return "".join(pieces)


class Prompt(NamedTuple):
    """What is said before a question."""

    task: str
    """What is to be done, and how to answer."""
    example: str
    """A question."""
    answer: str
    """To the example."""

    def request(self, model: str, question: str, purpose: str, seed: int) -> Request:
        """A question, all in one message: chat templates of some models refuse a system's."""
        said = f"{self.task}\n\nAn example.\n{self.example}\nAnswer: {self.answer}\n\nYour task.\n{question}\nAnswer:"
        return Request(model, (Message("user", said),), ANSWER_TOKENS, purpose, seed=seed)


def answers_to(
    asks: Asks, requests: Sequence[Request | None], parse: Callable[[str], T], stand_in: T
) -> list[Answered[T]]:
    """The answers in the order of the requests, as `Asks.ask`; None, of too few windows, fails with NO_WINDOWS."""
    wanted = [request for request in requests if request is not None]
    answers = iter(asks.ask(wanted, parse, stand_in) if wanted else [])
    return [Answered[T](None, NO_WINDOWS) if request is None else next(answers) for request in requests]


def read_numbers(text: str, n: int, allowed: Collection[int]) -> list[int]:
    """The one JSON array of n numbers in an answer.

    Raises: UnreadableError where there is none, or two that differ.
    """
    found = {tuple(array) for array in _arrays(text, allowed) if len(array) == n}
    if len(found) == 1:
        return list(next(iter(found)))
    among = (
        f"{min(allowed)} to {max(allowed)}" if len(allowed) > 2 else " or ".join(str(one) for one in sorted(allowed))
    )
    which = "no JSON array" if not found else "several different JSON arrays"
    raise UnreadableError(
        f"{which} of {n} number{'s' * (n > 1)}, each {among}; answer with one such array, nothing else"
    )


def _arrays(text: str, allowed: Collection[int]) -> Iterator[list[int]]:
    """Arrays of allowed whole numbers in a text; where 0 and 1 are allowed, false and true stand for them."""
    values = {str(value): value for value in allowed}
    if {0, 1} <= set(allowed):
        values |= {"false": 0, "true": 1}
    for array in _ARRAY.findall(text):
        words = [word.strip() for word in array[1:-1].split(",")]
        if all(word in values for word in words):
            yield [values[word] for word in words]
