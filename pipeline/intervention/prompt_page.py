"""A text in the model as one self-contained page: the tokens, coloured by what latents are on them. No script."""

from strata_sae.pipeline.intervention.prompt_view import View
from strata_sae.pipeline.pages import PAGES, PlainFrame, file_text, template


def page(view: View, run: str, text: str) -> str:
    """The page as one string. The same numbers give the same bytes."""
    frame = PlainFrame.of(file_text("style.css") + file_text("prompt.css"))
    return template("prompt.html.jinja", PAGES).render(
        frame=frame, view=view, run=run, text=text, n_tokens=len(view.texts)
    )
