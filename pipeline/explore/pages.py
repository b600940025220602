"""A screen becomes a page: its template, filled, within the frame that all pages share."""

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from markupsafe import Markup

from strata_sae.pipeline.explore.links import Links
from strata_sae.pipeline.explore.screen import Context, Screen, World
from strata_sae.pipeline.pages import file_text, policy, template
from strata_sae.pipeline.pages.text import count

EXPLORE = "strata_sae.pipeline.explore"
STYLES = ("explore.css", "screens.css", "prompt.css")
SCRIPTS = ("explore.js", "map.js")


class Frame(NamedTuple):
    """What every page holds beside its text."""

    policy: str
    style: Markup
    script: Markup
    about: str
    """The line at its foot."""


class At(NamedTuple):
    """What the address names, for the frame; empty where it names no such thing."""

    run: str
    sae: str
    q: str


def page(screen: Screen, world: World, links: Links, values: Mapping[str, str]) -> str:
    """The HTML of one screen. Raises: KeyError if there is no such thing; BadValueError."""
    return rendered(screen.name, world, links, values, screen.fill(world, values))


def rendered(name: str, world: World, links: Links, values: Mapping[str, str], context: Context) -> str:
    """The HTML of a template, filled with a context."""
    at = At(*(values.get(key, "") for key in At._fields))
    filled = template(f"{name}.html.jinja", EXPLORE)
    return filled.render(context, links=links, world=world, at=at, frame=frame(links.is_static, _about(world)))


def frame(is_static: bool, about: str) -> Frame:
    """The frame, of an app that answers a form or of static pages."""
    return Frame(page_policy(is_static), Markup(style_text()), Markup(script_text()), about)


@cache
def style_text() -> str:
    """The style of the report's pages and of these."""
    return "\n".join([file_text("style.css"), *(file_text(name, EXPLORE) for name in STYLES)])


@cache
def script_text() -> str:
    """What every page runs; each part does nothing where it finds nothing to do."""
    return "\n".join(file_text(name, EXPLORE) for name in SCRIPTS)


@cache
def page_policy(is_static: bool) -> str:
    """The content security policy: the page's own script and style, by their hashes, and its own form."""
    found = policy([script_text()], style_text())
    return found if is_static else found.replace("form-action 'none'", "form-action 'self'")


def _about(world: World) -> str:
    stores = {run.text.store.id: run for run in world.runs.values()}
    parts = [f"store {store[:12]}, {count(run.text.n_rows)} rows" for store, run in stores.items()]
    return " · ".join([*parts, "no model loaded" if world.prompts is None else "a model is loaded for prompts alone"])
