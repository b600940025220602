"""A text in the model as one self-contained page: the tokens, coloured by what latents are on them. No script."""

from typing import NamedTuple

from markupsafe import Markup

from strata_sae.pipeline.intervention.prompt_view import View
from strata_sae.pipeline.pages import PAGES, file_text, policy, template


class _Frame(NamedTuple):
    policy: str
    style: Markup
    taken_ids: tuple[str, ...] = ()


def page(view: View, run: str, text: str) -> str:
    """The page as one string. The same numbers give the same bytes."""
    style = file_text("style.css") + file_text("prompt.css")
    return template("prompt.html.jinja", PAGES).render(
        frame=_Frame(policy([], style), Markup(style)), view=view, run=run, text=text, n_tokens=len(view.texts)
    )
