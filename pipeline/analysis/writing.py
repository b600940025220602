"""Where an answer is written, and as what: a CSV table, a page with the figure, and some lines for the terminal."""

import csv
import io
import re
from pathlib import Path
from typing import NamedTuple

from strata_sae.pipeline.analysis.answer import Answer, Cell, rounded
from strata_sae.pipeline.analysis.asked import Asked, Options
from strata_sae.pipeline.analysis.page import page
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.pages.text import csv_cell, visible
from strata_sae.stores.files.filesystem import write_bytes
from strata_sae.stores.files.hashing import sha256

LONGEST_NAME = 180
"""Characters of a file's name, which may have 255 bytes, and gets an ending and a staged name."""
PRINTED_ROWS = 10
LONGEST_CELL = 44
_UNSAFE = re.compile(r"[^A-Za-z0-9@._+,=-]+")


class Written(NamedTuple):
    """What was written."""

    table: Path
    page: Path


def places(asked: Asked, what: str, options: Options, out: Path | None) -> Written:
    """The files of an answer: <run>/analysis/<what>/<SAE and options>.{csv,html}, or the same under `out`.

    Raises: ConfigError if they would lie in a store.
    """
    folder = (
        (outside_stores(asked.run.folder.path, "RUN") / "analysis") if out is None else outside_stores(out, "--out")
    )
    given = {name: value for name, value in options._asdict().items() if value is not None}
    name = ",".join([asked.given_sae.name if asked.given_sae else "all", *(f"{k}={v}" for k, v in given.items())])
    safe = _UNSAFE.sub("_", name)
    if safe != name or len(safe) > LONGEST_NAME:  # two names never become one
        safe = f"{safe[:LONGEST_NAME]}-{sha256(name.encode())[:8]}"
    return Written(folder / what / f"{safe}.csv", folder / what / f"{safe}.html")


def write(asked: Asked, what: str, answer: Answer, at: Written) -> None:
    """Write both files, each whole or not at all; the same answer gives the same bytes."""
    at.page.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(at.table, table(answer).encode("utf-8"))
    write_bytes(at.page, page(asked, what, answer, at.table.name).encode("utf-8"))


def table(answer: Answer) -> str:
    """The table as CSV."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([column.name for column in answer.columns])
    writer.writerows([[csv_cell(_number(cell)) for cell in row] for row in answer.rows])
    return stream.getvalue()


def _number(cell: Cell) -> Cell:
    return rounded(cell) if isinstance(cell, float) else cell


def printed(answer: Answer) -> str:
    """The title and the first rows, in columns."""
    heads = [column.name for column in answer.columns]
    rows = [[_short(cell) for cell in row] for row in answer.rows[:PRINTED_ROWS]]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    numeric = [not any(isinstance(row[place], str) for row in answer.rows) for place in range(len(heads))]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in ([heads, *rows] if rows else [])
    ]
    more = len(answer.rows) - len(rows)
    return "\n".join([visible(answer.title), *lines, *([f"... and {more:,} more rows"] if more > 0 else [])])


def _short(cell: Cell) -> str:
    if cell is None:
        return ""
    text = f"{cell:.4g}" if isinstance(cell, float) else visible(str(cell))
    return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 1]}…"
