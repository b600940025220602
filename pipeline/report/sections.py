"""Sections of the page that are not about every SAE: tables and figures in one form, drawn and written alike."""

from typing import NamedTuple

from strata_sae.pipeline.runs.migration import JsonObject


class SectionTable(NamedTuple):
    """A table of the page, and the file `<run>/tables/<name>.csv`."""

    name: str
    """Lower case letters, digits and `_`; unique on the page."""
    caption: str
    heads: list[tuple[str, str]]
    """Heading, and its unit or definition: below the heading where it is short, else below the table."""
    rows: list[list[str | float | None]]
    """A number is spelt by the page; None is a dash."""


class SectionFigure(NamedTuple):
    """A figure that the page draws with plotly, and hands out as SVG."""

    name: str
    """Lower case letters, digits and `_`; unique on the page."""
    caption: str
    traces: list[JsonObject]
    """plotly's traces of types scatter and bar, plain data. A key `variant` beside `type` gives a trace the colour of
    that variant, and `{"variant": name}` stands for it wherever a colour may; others have the page's colours, in order.
    Text is shown as it is; a hovertemplate may hold <b>, <br> and <extra>."""
    layout: JsonObject
    """plotly's layout: titles (text) and types of the axes, `height` in pixels; fonts and colours are the page's."""


class Section(NamedTuple):
    """One section: what it says first, its tables, its figures, and what could not be measured."""

    anchor: str
    title: str
    lede: str
    tables: list[SectionTable]
    figures: list[SectionFigure]
    notes: list[str]
