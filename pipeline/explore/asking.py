"""The form of the prompt screen as it arrives: a bounded body, its fields, and the question they make."""

import math
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple, get_args
from urllib.parse import parse_qsl

from strata_sae.pipeline.explore.prompts import Question
from strata_sae.pipeline.explore.screen import BadValueError, whole_number
from strata_sae.pipeline.explore.security import LONGEST_BODY_BYTES
from strata_sae.pipeline.queries.asked_model import LARGEST_AMOUNT, MOST_NEW_TOKENS, Edit, EditKind

MOST_EDITS = 8
"""Of a prompt."""
LONGEST_TEXT = 16_384
"""Characters; the model's own limit is in tokens."""
_MOST_FIELDS = 4 * (MOST_EDITS + 1) + 8
_EDIT_FIELDS = ("kind", "sae", "latent", "amount")


class Typed(NamedTuple):
    """The fields of an edit as they were typed."""

    kind: str
    sae: str
    latent: str
    amount: str


class Form(NamedTuple):
    """The fields as they were typed, so that a form that is refused is shown again as it was."""

    text: str
    tokens: str
    edits: list[Typed]
    at: str
    """The token that was looked at."""


async def body_of(stream: AsyncIterator[bytes]) -> bytes:
    """A request's body. Raises: BadValueError for more than LONGEST_BODY_BYTES."""
    body = b""
    async for piece in stream:
        body += piece
        if len(body) > LONGEST_BODY_BYTES:
            raise BadValueError(f"a form is at most {LONGEST_BODY_BYTES:,} bytes long")
    return body


def form_of(body: bytes) -> Form:
    """The fields of a form (application/x-www-form-urlencoded). Raises: BadValueError for what no form here sends."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="replace", max_num_fields=_MOST_FIELDS)
    except ValueError:  # not ASCII, or too many fields
        raise BadValueError("this is not the form of the prompt screen") from None
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    columns = [fields.get(name, []) for name in _EDIT_FIELDS]
    if len({len(column) for column in columns}) != 1:
        raise BadValueError("this is not the form of the prompt screen")
    text = fields.get("text", [""])[0].replace("\r\n", "\n")
    edits = [Typed(*(value.strip()[:400] for value in row)) for row in zip(*columns, strict=True)]
    return Form(text, fields.get("tokens", [""])[0][:40], edits, fields.get("at", [""])[0][:40])


def question_of(form: Form, d_sae: Mapping[str, int]) -> Question:
    """What a form asks. d_sae: latents of each SAE that can be edited. Raises: BadValueError."""
    if len(form.text) > LONGEST_TEXT:
        raise BadValueError(f"text: {len(form.text):,} characters; at most {LONGEST_TEXT:,} are read")
    if not form.text.strip():
        raise BadValueError("text: is empty; type some words")
    if "\0" in form.text:
        raise BadValueError("text: holds the character NUL, which no form can show again; leave it out")
    edits = tuple(_edit(typed, d_sae) for typed in form.edits if typed.kind and typed.latent)
    if len(edits) > MOST_EDITS:
        raise BadValueError(f"at most {MOST_EDITS} latents are changed at once")
    return Question(form.text, edits, whole_number({"tokens": form.tokens}, "tokens", 0, 0, MOST_NEW_TOKENS))


def _edit(typed: Typed, d_sae: Mapping[str, int]) -> Edit:
    kind: EditKind | None = next((kind for kind in get_args(EditKind) if kind == typed.kind), None)
    if kind is None:
        raise BadValueError(f"change: {typed.kind[:40]} is not one of {', '.join(get_args(EditKind))}")
    if typed.sae not in d_sae:
        raise BadValueError(f"SAE: {typed.sae[:80]} is none of this run's")
    latent = whole_number(typed._asdict(), "latent", 0, 0, d_sae[typed.sae] - 1)
    return Edit(typed.sae, latent, kind, 0.0 if kind == "ablate" else _amount(typed))


def _amount(typed: Typed) -> float:
    try:
        amount = float(typed.amount) if len(typed.amount) <= 32 else math.nan
    except ValueError:
        amount = math.nan
    if not abs(amount) <= LARGEST_AMOUNT:  # also of NaN
        said = f"{typed.amount[:40]} is no number" if typed.amount else "missing"
        raise BadValueError(
            f"amount: {said}; {typed.kind} of latent {typed.latent} needs one from {-LARGEST_AMOUNT:,.0f} to "
            f"{LARGEST_AMOUNT:,.0f}"
        )
    return amount
