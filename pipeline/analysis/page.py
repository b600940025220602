"""An answer as one self-contained page: a sentence, the figure, rows in their text, the first rows of the table."""

from strata_sae.pipeline.analysis.answer import Answer, Cell, caption, figure_data
from strata_sae.pipeline.analysis.asked import Asked
from strata_sae.pipeline.pages import template
from strata_sae.pipeline.pages.frame import Frame
from strata_sae.pipeline.pages.tables import six_digits
from strata_sae.pipeline.pages.text import UNKNOWN, count

PACKAGE = "strata_sae.pipeline.analysis"
MOST_SHOWN = 200
"""Rows of the table on the page (count); the CSV has all."""


def page(asked: Asked, what: str, answer: Answer, csv_name: str) -> str:
    """The page as one string."""
    numeric = [not any(isinstance(row[place], str) for row in answer.rows) for place in range(len(answer.columns))]
    return template("analysis.html.jinja", PACKAGE).render(
        frame=Frame.around({"figure": figure_data(answer.figure)}, PACKAGE, ["analysis.js"]),
        what=what,
        answer=answer,
        caption=None if answer.figure is None else caption(answer.figure),
        facts=_facts(asked),
        columns=list(zip(answer.columns, numeric, strict=True)),
        rows=[[_shown(cell) for cell in row] for row in answer.rows[:MOST_SHOWN]],
        n_rows=count(len(answer.rows)),
        is_cut=len(answer.rows) > MOST_SHOWN,
        csv_name=csv_name,
        texts=[(heading, shown, max(one.value for one in shown)) for heading, shown in answer.texts],
        top=max((one.value for _, shown in answer.texts for one in shown), default=0.0),
    )


def _facts(asked: Asked) -> list[tuple[str, str]]:
    """What the numbers were measured on."""
    saes = [sae for sae in (asked.given_sae, asked.given_other) if sae is not None]
    population, n_all = asked.population.replace("_", " "), count(asked.run.text.n_rows)
    # Of several SAEs each has its own rows as trained: a filter of norms differs by site.
    n_rows = f"{count(int(saes[0].kept(asked.population).sum()))} ({population}) of {n_all}" if saes else n_all
    return [
        ("run", asked.run.name),
        *(("SAE", sae.name) for sae in saes),
        ("rows", n_rows),
        ("store id", asked.run.text.store.id[:16]),
    ]


def _shown(cell: Cell) -> str:
    """A cell as text."""
    if cell is None:
        return UNKNOWN
    if isinstance(cell, float):
        return f"{six_digits(cell):.4g}"
    return count(cell) if isinstance(cell, int) and abs(cell) >= 10_000 else str(cell)
