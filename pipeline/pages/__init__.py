"""A self-contained page: templates with escaping, files of packages, and a policy that runs only the page's own."""

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import NamedTuple

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from strata_sae.pipeline.pages.text import finalize

PAGES = "strata_sae.pipeline.pages"
SHARED = "macros.html.jinja"


def file_text(name: str, package: str = PAGES) -> str:
    """A file that lies beside the code of a package."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


@cache
def template(name: str, package: str) -> Template:
    """A package's template, compiled once. It may import those beside it, and `macros.html.jinja`, which all share."""

    def load(wanted: str) -> str:
        return file_text(wanted, PAGES if wanted == SHARED else package)

    environment = Environment(
        loader=FunctionLoader(load), autoescape=True, finalize=finalize, undefined=StrictUndefined, trim_blocks=True
    )
    environment.globals["heat"] = heat
    return environment.get_template(name)


def policy(scripts: list[str], style: str) -> str:
    """A content security policy under which just these scripts run, this style holds, and nothing is fetched."""
    directives = {
        "default-src": "'none'",
        "script-src": " ".join(_hash(script) for script in scripts),
        "style-src": _hash(style),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{directive} {sources}" for directive, sources in directives.items())


class PlainFrame(NamedTuple):
    """What a page without scripts holds beside its text; `frame.Frame` is that of a page with figures."""

    policy: str
    style: Markup
    taken_ids: tuple[str, ...] = ()
    """Of the style sheets that plotly.js would add: none."""

    @classmethod
    def of(cls, style: str) -> "PlainFrame":
        """That of a page with this style."""
        return cls(policy([], style), Markup(style))


def heat(value: float | None, top: float) -> int:
    """How strongly a token is coloured: 0 (not active) to 10 (as active as the example itself)."""
    if not value or value <= 0.0 or top <= 0.0:
        return 0
    return max(1, round(min(10.0, 10 * value / top)))


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
