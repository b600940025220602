"""Where an answer is written, and as what: a CSV table, a page with the figure, and some lines for the terminal."""

from pathlib import Path
from typing import NamedTuple

from strata_sae.pipeline.analysis.answer import Answer, Cell
from strata_sae.pipeline.analysis.asked import Asked, Options
from strata_sae.pipeline.analysis.page import page
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.pages.tables import aligned, csv_text, six_digits
from strata_sae.pipeline.pages.text import cut, visible
from strata_sae.pipeline.paths import safe_name
from strata_sae.stores.files.filesystem import write_bytes

PRINTED_ROWS = 10
LONGEST_CELL = 44


class Written(NamedTuple):
    """What was written."""

    table: Path
    page: Path


def places(asked: Asked, what: str, options: Options, out: Path | None) -> Written:
    """The files of an answer: <run>/analysis/<what>/<SAE and options>.{csv,html}, or the same under `out`.

    Raises: ConfigError if they would lie in a store.
    """
    folder = outside_stores(asked.run.folder.analysis, "RUN") if out is None else outside_stores(out, "--out")
    given = {name: value for name, value in options._asdict().items() if value is not None}
    name = ",".join([asked.given_sae.name if asked.given_sae else "all", *(f"{k}={v}" for k, v in given.items())])
    safe = safe_name(name)
    return Written(folder / what / f"{safe}.csv", folder / what / f"{safe}.html")


def write(asked: Asked, what: str, answer: Answer, at: Written) -> None:
    """Write both files, each whole or not at all; the same answer gives the same bytes."""
    at.page.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(at.table, table(answer).encode("utf-8"))
    write_bytes(at.page, page(asked, what, answer, at.table.name).encode("utf-8"))


def table(answer: Answer) -> str:
    """The table as CSV."""
    heads = [column.name for column in answer.columns]
    return csv_text([heads, *(map(six_digits, row) for row in answer.rows)])


def printed(answer: Answer) -> str:
    """The title and the first rows, in columns."""
    heads = [column.name for column in answer.columns]
    rows = [[_short(cell) for cell in row] for row in answer.rows[:PRINTED_ROWS]]
    numeric = [place for place in range(len(heads)) if not any(isinstance(row[place], str) for row in answer.rows)]
    lines = aligned([heads, *rows], numeric) if rows else []
    more = len(answer.rows) - len(rows)
    return "\n".join([visible(answer.title), *lines, *([f"... and {more:,} more rows"] if more > 0 else [])])


def _short(cell: Cell) -> str:
    if cell is None:
        return ""
    return cut(f"{cell:.4g}" if isinstance(cell, float) else visible(str(cell)), LONGEST_CELL)
