"""What an answer of `strata analyze` is: a sentence, a table, and a figure as plain data that analysis.js draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from pydantic import JsonValue

from strata_sae.pipeline.pages.tables import six_digits

Cell: TypeAlias = str | int | float | None


class Column(NamedTuple):
    """A column of the table."""

    name: str
    """With its unit, as the CSV has it: `together_rows`."""
    means: str
    """In a line, for the page."""


class Bars(NamedTuple):
    """Horizontal bars, the first one at the top."""

    axis: str
    labels: list[str]
    values: list[float]
    colours: Sequence[int] = ()
    """Of each bar, a number of style.css; empty: all of the first."""
    names: Sequence[str] = ()
    """Of the colours, in their order."""


class Points(NamedTuple):
    """A point for each of n things."""

    x_axis: str
    y_axis: str
    x: list[float]
    y: list[float]
    labels: list[str]
    log: bool = False
    """Both axes."""
    log_x: bool = False
    equal: str = ""
    """What the line says on which y is x; empty: there is none."""


class Steps(NamedTuple):
    """Histograms in the same bins."""

    x_axis: str
    y_axis: str
    edges: list[float]
    """n + 1 of n bins."""
    counts: list[list[int]]
    names: list[str]
    log_x: bool = False


class Network(NamedTuple):
    """Two columns of latents, and lines between them: as thick as their value is large, its sign by colour."""

    left_title: str
    right_title: str
    left: list[str]
    right: list[str]
    edges: list[tuple[int, int, float]]
    """Place on the left, place on the right, value."""
    value: str
    """What it is, with its unit."""


class Boxes(NamedTuple):
    """A treemap: boxes within boxes."""

    ids: list[str]
    labels: list[str]
    parents: list[str]
    values: list[float]
    """The value of a box is the sum of those within it."""
    unit: str


Figure: TypeAlias = Bars | Points | Steps | Network | Boxes


@dataclass(frozen=True)
class Shown:
    """A row in its text, as the macro `concordance` of pages shows it."""

    row: int
    document: int
    position: int
    index: int
    tokens: list[str]
    values: list[float | None]
    value: float


class Answer(NamedTuple):
    """What was found."""

    title: str
    says: str
    """How the numbers are defined, and what stands out, in a sentence or two."""
    columns: tuple[Column, ...]
    rows: list[tuple[Cell, ...]]
    figure: Figure | None
    texts: Sequence[tuple[str, list[Shown]]] = ()
    """Rows in their text, by a heading; coloured beside their largest value."""


def caption(figure: Figure) -> str:
    """What the figure shows, for the line above it."""
    match figure:
        case Bars():
            return figure.axis
        case Points() | Steps():
            return f"{figure.y_axis}, by {figure.x_axis}"
        case Network():
            return figure.value
        case Boxes():
            return f"{figure.unit} of each latent, in clusters of alike directions"


def figure_data(figure: Figure | None) -> JsonValue:
    """The figure as analysis.js reads it: its fields, and its kind."""
    if figure is None:
        return None
    data = {name: _plain(value) for name, value in figure._asdict().items()}
    return {"kind": type(figure).__name__.lower(), **data}


_Drawn: TypeAlias = "str | float | Sequence[_Drawn]"


def _plain(value: _Drawn) -> JsonValue:
    """Numbers with six digits, so that a figure's bytes do not depend on how a sum was rounded."""
    if isinstance(value, str | int):
        return value
    return six_digits(value) if isinstance(value, float) else [_plain(item) for item in value]
