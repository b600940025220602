"""Texts that were typed into the app, and what the model said of them: kept, so that a page can be gone back to."""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from strata_sae.pipeline.queries.asked_model import AskedModel, Edit, Prompted, Seen

MOST_QUESTIONS = 256
"""Texts with their edits that are remembered (count): at most 20 kB each."""
MOST_ANSWER_BYTES = 64 * 2**20
"""Of answers that are remembered; the newest always is. 64 tokens with 12 SAEs of 32 active latents take 0.4 MB."""
ID_DIGITS = 20


class Question(NamedTuple):
    """What was typed and chosen."""

    text: str
    edits: tuple[Edit, ...]
    n_tokens: int
    """Of a continuation; 0: none."""


class Answer(NamedTuple):
    """What the model said."""

    prompted: Prompted
    continuations: list[str]
    """As it is, then with the edits if there are any; empty where none was asked for."""
    seconds: float
    """That it took, without waiting for the model to be loaded."""


class Prompts:
    """The models of runs, and what they were asked; for several threads."""

    def __init__(self, models: Mapping[str, AskedModel], missing: str | None = None) -> None:
        """models: by the run's name in addresses. missing: what must be installed before any can be asked."""
        self.models, self.missing = dict(models), missing
        self._questions: OrderedDict[tuple[str, str], Question] = OrderedDict()
        self._answers: OrderedDict[tuple[str, str], Answer] = OrderedDict()
        self._lock = threading.Lock()

    def ask(self, run: str, question: Question) -> str:
        """Have a question answered. Returns: its name in addresses.

        Raises: KeyError for a run without a model; what `AskedModel.prompt` raises.
        """
        key = (run, named(question))
        with self._lock:
            answer = self._answers.get(key)
        if answer is None:
            answer = _answered(self.models[run], question)
        with self._lock:
            self._questions[key], self._answers[key] = question, answer
            self._questions.move_to_end(key)
            self._answers.move_to_end(key)
            while len(self._questions) > MOST_QUESTIONS:
                self._questions.popitem(last=False)
            while len(self._answers) > 1 and sum(map(n_bytes, self._answers.values())) > MOST_ANSWER_BYTES:
                self._answers.popitem(last=False)
        return key[1]

    def answered(self, run: str, name: str) -> tuple[Question, Answer]:
        """A question by its name with its answer, which is made again where it is no longer kept.

        Raises: KeyError if there is no such question, or it was forgotten; as `ask`.
        """
        with self._lock:
            question = self._questions[run, name]
            answer = self._answers.get((run, name))
        if answer is None:
            self.ask(run, question)
            return self.answered(run, name)
        return question, answer


def named(question: Question) -> str:
    """The name of a question in addresses: equal questions have one name, and nothing of the text can be read in it."""
    return hashlib.sha256(repr(tuple(question)).encode("utf-8", "surrogatepass")).hexdigest()[:ID_DIGITS]


def _answered(model: AskedModel, question: Question) -> Answer:
    model.load()
    began = time.monotonic()
    prompted = model.prompt(question.text, question.edits)
    ways: list[tuple[Edit, ...]] = [(), question.edits] if question.edits else [()]
    continuations = model.continuations(question.text, ways, question.n_tokens) if question.n_tokens else []
    return Answer(prompted, continuations, time.monotonic() - began)


def n_bytes(answer: Answer) -> int:
    """What an answer takes in memory (bytes), about."""
    prompted = answer.prompted
    return _seen_bytes(prompted.clean) + (_seen_bytes(prompted.edited) if prompted.edited else 0)


def _seen_bytes(seen: Seen) -> int:
    codes = sum(active.offset.nbytes + active.latents.nbytes + active.values.nbytes for active in seen.active.values())
    return codes + 100 * seen.following.token_ids.size  # and a short text each
