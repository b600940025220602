"""A chat template: what it reads, and how it is applied within a limit on its steps."""

import datetime
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

import jinja2
from jinja2 import meta, nodes

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents.document import Cell
from strata_sae.pipeline.language_model.transformers_library import Tokenizer

# A template that prints today's date would make a store that differs from day to day. This is Llama 3.1's default.
TODAY = datetime.datetime(2024, 7, 26, tzinfo=datetime.UTC)

# transformers hands a template the first of these that a message has under the other names too.
_REASONING = ("reasoning_content", "thinking", "reasoning")
BESIDE = {"tools", "documents"}
SETTINGS = "chat_template_kwargs"
# Set here, by transformers or by the template's language: columns of these names are not given to a template.
_NOT_COLUMNS = {
    *("messages", "conversation", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"),
    *("sanitize_control_tokens", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
    *("conversations", "return_assistant_tokens_mask", "tokenizer_kwargs", "raise_exception", "strftime_now"),
    *(SETTINGS, *BESIDE, *jinja2.Environment().globals),
}
_GENERATION = re.compile(r"{%-?\s*(end)?generation\s*-?%}")  # a mark of transformers' own


class Template:
    """One template of a tokenizer, which may have another for chats with tools.

    Raises: ConfigError for one that computes powers.
    """

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        parsed = _parsed(text)
        # 9**9**9 is one step that takes years, and jinja2 computes it when it compiles the template.
        if parsed is not None and parsed.find(nodes.Pow):
            raise ConfigError(
                "corpus.sources: chat: the tokenizer's chat template computes a power (**), which no chat needs; look "
                "at it before you use it, and remove the power"
            )
        self._tokenizer = tokenizer
        self._text = _undated(text)
        self._words = set(re.findall(r"\w+", text))
        read = self._words & BESIDE if parsed is None else set(meta.find_undeclared_variables(parsed))
        self.variables = read - _NOT_COLUMNS - set(tokenizer.special_tokens_map)
        """Names that it reads and that only the data can give: columns of a row."""
        self.beside = read & BESIDE
        """Which of `tools` and `documents` it reads."""

    def names(self, field: str) -> bool:
        """Whether the template holds the name of a message's field."""
        same = _REASONING[:2] if field in _REASONING else ()
        return not self._words.isdisjoint({field, *same})

    def apply(self, messages: list[dict[str, Cell]], beside: dict[str, Cell]) -> str:
        """The conversation as text. Raises: whatever a template raises, and TooLong for one that does not end."""
        with limited():
            return self._tokenizer.apply_chat_template(messages, chat_template=self._text, tokenize=False, **beside)


def _parsed(template: str) -> nodes.Template | None:
    """None for a template that is not plain Jinja; transformers may know more of its tags."""
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        return environment.parse(_GENERATION.sub("", template))
    except jinja2.TemplateError:
        return None


def _undated(template: str) -> str:
    """The template with a `strftime_now` that always gives TODAY."""
    if "strftime_now" not in template:
        return template
    # A macro in the template itself: transformers gives templates plain data only, never functions.
    fields = "".join(f"|replace('%{code}','{TODAY.strftime('%' + code)}')" for code in "aAbBdHIjmMpSyY")
    return "{% macro strftime_now(format) %}{{ format" + fields + " }}{% endmacro +%}" + template


# A message takes about 35 steps of an ordinary template, so this allows 280,000 messages and takes a few seconds.
MAX_STEPS = 10_000_000
# Four times the longest document: text that a macro returns is counted again where its caller prints it.
MAX_CHARACTERS = 256 << 20
# What jinja2 calls the source of compiled templates.
_TEMPLATE = "<template>"


class TooLong(Exception):
    """A template that was stopped."""


class TraceFunction(Protocol):
    """What `sys.settrace` takes."""

    def __call__(self, frame: FrameType, event: str, argument: Cell) -> "TraceFunction | None":
        """Called at every line, call and return; gives the function for the frame's next events."""


@contextmanager
def limited() -> Iterator[None]:
    """Count the lines of templates, what they print, and the calls of Python functions, in this thread.

    The memory that one step takes has no limit here.
    Raises: TooLong within the block, past MAX_STEPS or MAX_CHARACTERS.
    """
    n_steps = n_characters = 0

    def step(frame: FrameType, event: str, argument: Cell) -> TraceFunction | None:
        nonlocal n_steps, n_characters
        n_steps += 1
        if n_steps > MAX_STEPS:
            raise TooLong(f"more than {MAX_STEPS:,} steps: it does not end, or its loops are far too long")
        # Lines are counted in templates, calls everywhere: a loop of a filter calls, or runs in C.
        if frame.f_code.co_filename != _TEMPLATE:
            return None
        if event == "return" and isinstance(argument, str):  # a generator's yield is a return, too
            n_characters += len(argument)
            if n_characters > MAX_CHARACTERS:
                raise TooLong(f"it prints more than {MAX_CHARACTERS:,} characters")
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        yield
    finally:
        sys.settrace(before)
