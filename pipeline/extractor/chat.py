"""Chats as text, by the tokenizer's template: what of a row it must read, and what rows are refused."""

import json
from typing import NamedTuple

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.documents.document import BadRow, Cell, Document, half_of_a_pair
from strata_sae.pipeline.extractor.own_text import MARK, Messages, Own, Skeleton, Span, located, marked
from strata_sae.pipeline.extractor.system_prompts import OwnPrompts, others
from strata_sae.pipeline.extractor.template import BESIDE, SETTINGS, Template
from strata_sae.pipeline.language_model.transformers_library import Tokenizer
from strata_sae.stores import StoreError
from strata_sae.stores.files.canonical import parse_json

# Fields that transformers documents as the text of a message. A template that does not read one would lose it, so such
# a row is refused; other fields (a time, an id, a weight) are only counted.
_SPEAKING = {"tool_calls", "function_call", "reasoning_content", "reasoning", "thinking"}
_N_SKELETONS = 1024  # kept; chats of one form share one


class Rendered(NamedTuple):
    """A conversation as the model sees it."""

    text: str
    spans: list[Span]
    """The characters that are the messages' own."""
    own: list[Own]
    unread: tuple[str, ...]
    """Fields of the messages, and columns beside them, that the template does not read."""
    system: str | None = None
    """What became of its system prompt, `dropped` or `kept`, where the source drops some and it has one."""


class ChatTemplate:
    """A tokenizer's chat template, applied to whole conversations.

    Raises: ConfigError where the tokenizer has no template, or cannot say which characters a token covers.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if not tokenizer.chat_template:
            raise ConfigError(
                "corpus.sources: chat: the model's tokenizer has no chat template; "
                "use an instruct model or `chat: false`"
            )
        if not tokenizer.is_fast:
            raise ConfigError(
                "corpus.sources: chat: the model's tokenizer has no fast version, so template tokens cannot be told "
                "from content; use another model or `chat: false`"
            )
        self._tokenizer = tokenizer
        self._templates: dict[bool, Template] = {}  # by whether there are tools
        self._skeletons: dict[str, Skeleton] = {}
        self._shows: dict[str, bool] = {}  # fields that the template does not name
        self._prompts = OwnPrompts(tokenizer.bos_token or "", tokenizer.eos_token or "")

    def render(self, document: Document) -> Rendered:
        """The conversation as the model sees it, and the character spans of the messages' own strings.

        Raises: BadRow where the template refuses the conversation, drops or rewrites a message's content, or does not
            read a field that says something.
        """
        messages = document.messages or []
        if document.drops_system:
            messages = others(messages)
        template, beside = self._chosen(document)
        rendered = _applied(template, messages, beside, document)
        if (half := half_of_a_pair(rendered)) is not None:  # from a column beside the messages
            raise BadRow(document.place, f"half of a surrogate pair at character {half} of the chat is not text")
        _check_parts(messages, rendered, document)
        unread = self._unread_fields(template, messages, beside, rendered, document)
        copies, own = marked(messages)
        around = self._skeleton(template, copies, beside, document)
        spans, altered = located(rendered, around, own)
        if altered is not None:
            raise BadRow(
                document.place,
                f"message {altered}: the tokenizer's chat template drops or rewrites its content, so template tokens "
                f"cannot be told from content",
            )
        columns = sorted((document.beside or {}).keys() - beside.keys() - (document.kept or {}).keys() - {SETTINGS})
        chat = Rendered(rendered, spans, own, (*unread, *(f"column {name!r}" for name in columns)))
        return chat if document.drops_system is None else self._with_system_decided(chat, beside, document)

    def _with_system_decided(self, chat: Rendered, beside: dict[str, Cell], document: Document) -> Rendered:
        """The chat without the template's own system prompt, or as it is; and what became of its system prompt."""
        start, stop = self._prompts.span(chat.text, self._template(None), beside)
        if not document.drops_system or start == stop:
            messages, word = document.messages or [], "dropped" if document.drops_system else "kept"
            has_one = start < stop or len(others(messages)) < len(messages)
            return chat._replace(system=word if has_one else None)
        spans = [(one - stop + start, other - stop + start) for one, other in chat.spans]
        return chat._replace(text=chat.text[:start] + chat.text[stop:], spans=spans, system="dropped")

    def _chosen(self, document: Document) -> tuple[Template, dict[str, Cell]]:
        """The template for a row, and the columns beside the messages that it reads."""
        columns = document.beside or {}
        given = {name: _parsed(columns[name], name, document) for name in sorted(BESIDE & columns.keys())}
        settings = _parsed(columns.get(SETTINGS, {}), SETTINGS, document)
        if not isinstance(settings, dict):
            raise BadRow(document.place, f"column {SETTINGS!r}: expected a mapping, got a {type(settings).__name__}")
        template = self._template(given.get("tools"))
        for name in (name for name, value in given.items() if value and name not in template.beside):
            raise _unread(f"column {name!r}", document)
        for name in settings.keys() - template.variables:
            raise _unread(f"column {SETTINGS!r}: {name!r}", document)
        own = {name: value for name, value in columns.items() if name in template.variables}
        beside: dict[str, Cell] = {**own, **given, **settings}
        for name, value in beside.items():
            _check_plain(value, f"column {name!r}", document)
        return template, beside

    def _template(self, tools: Cell) -> Template:
        with_tools = tools is not None
        if with_tools not in self._templates:
            try:
                text = self._tokenizer.get_chat_template(tools=tools)
            except ValueError as error:
                raise ConfigError(f"corpus.sources: chat: the tokenizer's chat template: {error}") from None
            self._templates[with_tools] = Template(self._tokenizer, text)
        return self._templates[with_tools]

    def _unread_fields(
        self, template: Template, messages: Messages, beside: dict[str, Cell], rendered: str, document: Document
    ) -> list[str]:
        """The messages' fields that the template does not read. Raises: BadRow where such a field holds text."""
        unread = []
        for field in dict.fromkeys(key for message in messages for key in message if key not in ("role", "content")):
            number = next(number for number, message in enumerate(messages) if field in message)
            where = f"message {number}: field {field!r}"
            if template.names(field):
                _check_plain([message.get(field) for message in messages], where, document)
                continue
            # A template may print messages whole, without naming what they hold.
            if field in _SPEAKING or field not in self._shows:
                without = [{key: item for key, item in message.items() if key != field} for message in messages]
                self._shows[field] = _applied(template, without, beside, document) != rendered
            if not self._shows[field]:
                if field in _SPEAKING:
                    raise _unread(where, document)
                unread.append(f"message field {field!r}")
        return unread

    def _skeleton(self, template: Template, copies: Messages, beside: dict[str, Cell], document: Document) -> Skeleton:
        key = json.dumps([id(template), copies, beside], default=str)
        if key not in self._skeletons:
            if len(self._skeletons) >= _N_SKELETONS:
                self._skeletons.clear()
            parts = MARK.split(_applied(template, copies, beside, document))
            self._skeletons[key] = Skeleton(parts[::2], [int(number) for number in parts[1::2]])
        return self._skeletons[key]


def _applied(template: Template, messages: Messages, beside: dict[str, Cell], document: Document) -> str:
    try:
        return template.apply(messages, beside)
    except Exception as error:  # a template may raise anything: it is a program of the model's authors
        raise BadRow(
            document.place,
            f"the tokenizer's chat template refuses these messages ({type(error).__name__}: {error}); "
            f"roles are {[message['role'] for message in messages]}",
        ) from error


def _unread(what: str, document: Document) -> BadRow:
    return BadRow(
        document.place,
        f"{what}: the tokenizer's chat template does not read it, so its content would be lost; use a model "
        f"whose template reads it, or remove it from the data",
    )


def _check_parts(messages: Messages, rendered: str, document: Document) -> None:
    for number, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list) and content and str(content) in rendered:
            raise BadRow(
                document.place,
                f"message {number}: content: the tokenizer's chat template takes text, and prints a list of parts as "
                f"Python writes it; join the parts into one string",
            )


def _check_plain(value: Cell, what: str, document: Document) -> None:
    """Raises: BadRow for a value that JSON cannot hold: transformers gives a template the name of its type instead."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_plain(item, what, document)
    elif value is not None and type(value) not in (str, int, float, bool):
        raise BadRow(document.place, f"{what}: holds a {type(value).__name__}; store it as text")


def _parsed(value: Cell, column: str, document: Document) -> Cell:
    """A column, parsed where it is JSON text, as in many tables: a column has one type, and tools have many."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value.encode(), f"column {column!r}") if value.strip() else None
    except (StoreError, UnicodeEncodeError) as error:
        raise BadRow(document.place, str(error)) from None
