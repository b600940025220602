"""The screen of a prompt: the tokens of a typed text, what every SAE says at one of them, and what changes do."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

from strata_sae.pipeline.explore.asking import LONGEST_TEXT, MOST_EDITS, Form, Typed
from strata_sae.pipeline.explore.prompts import Answer, Prompts, Question
from strata_sae.pipeline.explore.screen import BadValueError, Context, World, chosen, whole_number
from strata_sae.pipeline.explore.screens.over_text import strongest
from strata_sae.pipeline.explore.screens.prompted import Coloured, following, kl_at, pieces, sayings
from strata_sae.pipeline.explore.screens.shown import Named, named
from strata_sae.pipeline.pages.text import UNKNOWN
from strata_sae.pipeline.queries.asked_model import MOST_NEW_TOKENS, MOST_TOKENS, Edit, Prompted
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE

KINDS = {"": UNKNOWN, "ablate": "ablate", "clamp": "clamp to", "steer": "steer by"}
"""Kind of a change -> what the form calls it."""
LEAST_LINES, MOST_LINES, LINE_CHARACTERS = 3, 14, 110
"""Of the box of the text."""
COLOURS = {"kl": "what the change does", "before": "the latent", "after": "the latent, changed"}


class Change(NamedTuple):
    """A change that was made, with its latent's label."""

    edit: Edit
    named: Named


def fill(world: World, values: Mapping[str, str]) -> Context:
    """What the page shows before a text is typed, and after. Raises: KeyError, BadValueError."""
    run, prompts = world.run(values), prompts_of(world, values)
    name = values.get("asked")
    if name is None:
        return form_context(run, prompts, values, Form("", "", [], ""), None)
    question, answer = prompts.answered(values["run"], name)
    typed = Form(question.text, str(question.n_tokens or ""), [_typed(edit) for edit in question.edits], "")
    return form_context(run, prompts, values, typed, None) | _answer(run, question, answer, values)


def prompts_of(world: World, values: Mapping[str, str]) -> Prompts:
    """The prompts of a world. Raises: KeyError where the run of an address has none."""
    if world.prompts is None or values["run"] not in world.prompts.models:
        raise KeyError("prompt")
    return world.prompts


def form_context(
    run: CodedRun, prompts: Prompts, values: Mapping[str, str], form: Form, refused: str | None
) -> Context:
    """What the page shows of its form. refused: why the text was not read."""
    latent = _latent(run, values)
    edits = form.edits[: MOST_EDITS + 1]
    if len(edits) < MOST_EDITS:
        edits = [*edits, _new(latent, edits)]
    return {
        "run": values["run"],
        "form": form._replace(edits=edits),
        "refused": refused,
        "raw": Markup(escape(form.text)),  # what was typed, unlike other text of the page, goes back unchanged
        "rows": min(MOST_LINES, max(LEAST_LINES, form.text.count("\n") + 1, -(-len(form.text) // LINE_CHARACTERS))),
        "longest_text": LONGEST_TEXT,
        "missing": prompts.missing,
        "saes": list(run.saes),
        "places": {name: place for place, name in enumerate(run.saes)},
        "kinds": KINDS,
        "latent": None if latent is None else named(run, *latent),
        "most_tokens": MOST_TOKENS,
        "most_new_tokens": MOST_NEW_TOKENS,
        "asked": None,
        "place_number": None,
    }


def _latent(run: CodedRun, values: Mapping[str, str]) -> tuple[CodedSAE, int] | None:
    """The latent that the query names, of an SAE by its name or, shorter, by its place among those of the run."""
    if not values.get("latent") or not (values.get("sae") or values.get("of")):
        return None
    if values.get("of"):
        sae = list(run.saes.values())[whole_number(values, "of", 0, 0, len(run.saes) - 1)]
    elif values["sae"] in run.saes:
        sae = run.saes[values["sae"]]
    else:
        raise BadValueError(f"sae: {values['sae'][:80]} is none of this run's")
    return sae, whole_number(values, "latent", 0, 0, sae.d_sae - 1)


def _new(latent: tuple[CodedSAE, int] | None, edits: list[Typed]) -> Typed:
    """The row of the form for a change that is not made yet: of the latent that is looked at, by its largest value."""
    if latent is None:
        return Typed("", edits[-1].sae if edits else "", "", "")
    sae, number = latent
    return Typed("", sae.name, str(number), f"{float(sae.codes.table['max'][number]):.3g}")


def _typed(edit: Edit) -> Typed:
    amount = "" if edit.kind == "ablate" else repr(edit.amount).removesuffix(".0")  # all digits: it is sent again
    return Typed(edit.kind, edit.sae, str(edit.latent), amount)


def _mean_kl(prompted: Prompted) -> float | None:
    """KL (nat), over the tokens at which a change is made, as `strata analyze ... steer` tells it; None: no such."""
    ordinary_S = ~np.asarray(prompted.is_special)
    return None if prompted.kl_S is None or not ordinary_S.any() else float(prompted.kl_S[ordinary_S].mean())


def _answer(run: CodedRun, question: Question, answer: Answer, values: Mapping[str, str]) -> Context:
    prompted = answer.prompted
    n_tokens = len(prompted.token_ids)
    at = whole_number(values, "at", n_tokens - 1, 0, n_tokens - 1)
    latent = _latent(run, values)
    is_changed = prompted.edited is not None
    has_colour = {"kl": is_changed, "before": latent is not None, "after": is_changed and latent is not None}
    colours = [name for name in COLOURS if has_colour[name]]
    usual = ("before" if latent else colours[0]) if colours else None
    colour = chosen(values, "colour", colours, usual) if usual else None
    said = sayings(run, prompted, at)
    shown = pieces(prompted, Coloured(colour, latent))
    return {
        "asked": values["asked"],
        "place_number": at,
        "n_tokens": n_tokens,
        "pieces": shown,
        "top": max((piece.value or 0.0 for piece in shown), default=0.0),
        "colour": colour,
        "usual_colour": usual,
        "colours": [(name, COLOURS[name]) for name in colours],
        "changes": [Change(edit, named(run, run.saes[edit.sae], edit.latent)) for edit in question.edits],
        "following": following(prompted, at),
        "kl": kl_at(prompted, at),
        "mean_kl": _mean_kl(prompted),
        "sayings": said,
        "strongest": strongest(run, prompted),
        "before_change": [] if prompted.edited is None else [one.sae for one in said if one.n_after is None],
        "silent": [name for name in run.saes if name not in prompted.clean.active],
        "continuations": [text.split("\n") for text in answer.continuations],
        "seconds": answer.seconds,
    }
