"""System prompts of chats: which chats are stored without theirs, and what a template writes where a chat has none.

dictionary_learning removes the template's own text (Qwen's) with probability 0.9, so that a training set does not hold
thousands of copies of it, and some. Here messages of the role `system` count as well.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace

from strata_sae.pipeline.errors import ConfigError, first_line
from strata_sae.pipeline.extractor.documents.document import BadRow, Cell, Document
from strata_sae.pipeline.extractor.template import BESIDE, Template

_N_KNOWN = 1024  # kept; most templates have one


def decided(rows: Iterable[Document | BadRow], probability: float, seed: int) -> Iterator[Document | BadRow]:
    """The chats of a source, each told whether it loses its system prompt; as they are where the probability is 0."""
    for row in rows:
        if probability > 0.0 and isinstance(row, Document):
            yield replace(row, drops_system=share_of(row, seed) < probability)
        else:
            yield row


def share_of(document: Document, seed: int) -> float:
    """A number from 0 to 1, even over chats: a function of seed and messages alone, wherever the chat stands."""
    told = json.dumps([seed, document.messages], sort_keys=True, default=str)
    return int.from_bytes(hashlib.blake2b(told.encode("utf-8"), digest_size=8).digest(), "big") / 2**64


def others(messages: list[dict[str, Cell]]) -> list[dict[str, Cell]]:
    """The messages that are no system messages; all of them where there are no others."""
    return [message for message in messages if message["role"] != "system"] or messages


class OwnPrompts:
    """The system prompts that a template writes by itself. `bos`, `eos`: the texts of these tokens, or nothing."""

    def __init__(self, bos: str, eos: str) -> None:
        self._bos, self._eos = bos, eos
        self._known: dict[str, str] = {}

    def span(self, text: str, template: Template, beside: dict[str, Cell]) -> tuple[int, int]:
        """The characters of a rendered chat that are the template's own system prompt; (0, 0) if there is none.

        Raises: ConfigError where that cannot be told.
        """
        plain = {name: value for name, value in beside.items() if name not in BESIDE}
        key = json.dumps(plain, default=str)
        if key not in self._known:
            if len(self._known) >= _N_KNOWN:
                self._known.clear()
            self._known[key] = _before_a_question(template, plain, self._bos, self._eos)
        prompt = self._known[key]
        for before in ("", self._bos):
            if text.startswith(before + prompt):
                return len(before), len(before) + len(prompt)
        return 0, 0


def _before_a_question(template: Template, beside: dict[str, Cell], bos: str, eos: str) -> str:
    """What the template writes before the first message, without what it writes before every message of a user.

    The latter is found between an answer and the question after it, where it follows what ends an answer; some
    templates write EOS after the last answer only (Phi-3). BOS at the beginning is left out, unless every message of a
    user begins with BOS (SmolLM2): then the chat without its prompt begins with the user's.
    Raises: ConfigError for a template of another form.
    """
    question, answer, again = ("\ue0000\ue001", "\ue0001\ue001", "\ue0002\ue001")
    said = (("user", question), ("assistant", answer), ("user", again))
    messages: list[dict[str, Cell]] = [{"role": role, "content": text} for role, text in said]
    try:
        two, three = (template.apply(messages[:n], beside) for n in (2, 3))
        before = three.split(question)[0]
        between = three.split(answer)[1].split(again)[0]
        ends_answer = two.split(answer)[1]
    except Exception as error:  # of the template, which is a program; or where it leaves out one of the messages
        raise _unclear(first_line(error)) from error
    for ends in (ends_answer, ends_answer.removesuffix(eos)):
        if between.startswith(ends) and before.endswith(begins := between.removeprefix(ends)):
            own = before.removesuffix(begins)
            return own if begins.startswith(bos) and own != bos else own.removeprefix(bos)
    raise _unclear("the text before its first message does not end with what it writes before later ones")


def _unclear(why: str) -> ConfigError:
    return ConfigError(
        f"corpus.sources: system_drop_probability: which system prompt the tokenizer's chat template writes by itself "
        f"cannot be told ({why}); set it to 0, or remove system messages from the data"
    )
