"""Hypotheses as files: a CSV with HypotheSAEs' columns and more, and a page that shows how sure each one is."""

import csv
import io
import re

from strata_sae.pipeline.interpretation.hypotheses.columns import COLUMNS, Cell, Row, rows_of, says, shown, tested_by
from strata_sae.pipeline.interpretation.hypotheses.flow import Hypotheses
from strata_sae.pipeline.interpretation.hypotheses.page import page
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.pages.text import csv_cell, visible
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.stores.files.filesystem import write_bytes
from strata_sae.stores.files.hashing import sha256

PRINTED, LONGEST_WORDS = 10, 60
"""Hypotheses that are printed, and characters of their words."""
LONGEST_NAME = 180
"""Characters of a file's name."""
_UNSAFE = re.compile(r"[^A-Za-z0-9@._+,=-]+")


def write(run: CodedRun, sae: CodedSAE, found: Hypotheses) -> str:
    """Write <run>/hypotheses/<SAE and options>.csv and .html, each whole or not at all. Returns: what to print.

    Raises: ConfigError if they would lie in a store.
    """
    folder = outside_stores(run.folder.hypotheses, "RUN")
    options = {"target": found.target.name, "select": found.select, "pool": found.pool, "n": found.n_asked}
    words = "words=model" if found.is_by_model else "words=labels"
    name = ",".join([sae.name, *(f"{option}={value}" for option, value in options.items()), words])
    safe = _UNSAFE.sub("_", name)
    if safe != name or len(safe) > LONGEST_NAME:  # two names never become one
        safe = f"{safe[:LONGEST_NAME]}-{sha256(name.encode())[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows_of(found)
    write_bytes(folder / f"{safe}.csv", table(rows).encode("utf-8"))
    write_bytes(folder / f"{safe}.html", page(run, sae, found, rows, f"{safe}.csv").encode("utf-8"))
    return "\n".join([*printed(found, rows), f"table: {folder / safe}.csv", f"page:  {folder / safe}.html"])


def table(rows: list[Row]) -> str:
    """The table as CSV, numbers with six digits: they do not depend on how a sum was rounded."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([column.name for column in COLUMNS])
    writer.writerows([[csv_cell(_six(cell)) for cell in row] for row in rows])
    return stream.getvalue()


def printed(found: Hypotheses, rows: list[Row]) -> list[str]:
    """The sentences and the first rows, for the terminal."""
    names = ("latent", "separation_score", tested_by(found), "regression_coef", "interpretation")
    places = [[column.name for column in COLUMNS].index(name) for name in names]
    cells = [list(names), *([shown(row[place])[:LONGEST_WORDS] for place in places] for row in rows[:PRINTED])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    more = len(rows) - PRINTED
    title = f"Hypotheses about {found.target.name} ({found.target.means})"
    return [visible(title), says(found), *lines, *([f"... and {more:,} more rows"] if more > 0 else [])]


def _six(cell: Cell) -> Cell:
    return float(f"{cell:.6g}") if isinstance(cell, float) else cell
