"""The frame of a page with figures: its policy, style and scripts, plotly.js among them."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup
from plotly.offline import get_plotlyjs
from pydantic import JsonValue

from strata_sae.pipeline.pages import file_text, policy
from strata_sae.pipeline.pages.text import script_json


class Frame(NamedTuple):
    """What a page with figures holds beside its text: the numbers, what draws them, and the policy that lets it."""

    policy: str
    style: Markup
    plotly: Markup
    script: Markup
    data: Markup
    taken_ids: list[str]
    """Of the style sheets that plotly.js would add, which the policy forbids."""

    @classmethod
    def around(cls, data: JsonValue, package: str, scripts: Sequence[str]) -> "Frame":
        """That of a page whose figures a package's scripts draw from `data`, in their order, after charts.js."""
        style, plotly = file_text("style.css"), get_plotlyjs()
        script = file_text("charts.js") + "".join(file_text(name, package) for name in scripts)
        taken_ids = re.findall(r'getElementById\("([0-9a-f]{64})"\)', plotly)
        allowed = policy([plotly, script], style)
        return cls(allowed, Markup(style), Markup(plotly), Markup(script), script_json(data), taken_ids)
