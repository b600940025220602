"""Hypotheses as a page without scripts: the separation of each with its interval, and the whole table."""

from typing import NamedTuple

from strata_sae.pipeline.interpretation.hypotheses.columns import COLUMNS, Cell, Row, says, shown, tested_by
from strata_sae.pipeline.interpretation.hypotheses.flow import Hypotheses
from strata_sae.pipeline.pages import PlainFrame, file_text, template
from strata_sae.pipeline.pages.text import count
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE

PACKAGE = "strata_sae.pipeline.interpretation.hypotheses"


def page(run: CodedRun, sae: CodedSAE, found: Hypotheses, rows: list[Row], csv_name: str) -> str:
    """The page as one string; it has no script."""
    names = [column.name for column in COLUMNS]
    lows, highs, scores = (names.index(f"separation_{end}") for end in ("low", "high", "score"))
    ends = [value for row in rows for value in (row[lows], row[highs], row[scores]) if isinstance(value, float)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    return template("hypotheses.html.jinja", PACKAGE).render(
        frame=PlainFrame.of(file_text("style.css")),
        title=f"Hypotheses about {found.target.name}",
        says=says(found),
        facts=[
            ("run", run.name),
            ("SAE", sae.name),
            ("target", found.target.means),
            ("words", found.by),
            ("store id", run.text.store.id[:16]),
            ("codes id", sae.codes.id[:16]),
            ("SHA-256 of the weights", sae.training.sha256.weights[:16]),
        ],
        columns=COLUMNS,
        words=names.index("interpretation"),
        p=names.index(tested_by(found)),
        rows=[[shown(cell) for cell in row] for row in rows],
        marks=[_mark(row[lows], row[scores], row[highs], low, high) for row in rows],
        zero=_place(0.0, low, high),
        n_rows=count(len(rows)),
        csv_name=csv_name,
    )


class Mark(NamedTuple):
    """Where an interval is drawn, in hundredths of the width."""

    low: float
    score: float
    high: float


def _mark(low: Cell, score: Cell, high: Cell, least: float, most: float) -> Mark | None:
    if not isinstance(score, float):
        return None
    ends = [end if isinstance(end, float) else score for end in (low, high)]
    return Mark(*(_place(value, least, most) for value in (ends[0], score, ends[1])))


def _place(value: float, least: float, most: float) -> float:
    return round(2 + 96 * (value - least) / (most - least), 2) if most > least else 50.0
