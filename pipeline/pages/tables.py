"""Tables as text: CSV files, and columns for a terminal."""

import csv
import io
from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

from strata_sae.pipeline.pages.text import csv_cell

T = TypeVar("T")


def csv_text(rows: Iterable[Iterable[str | float | None]]) -> str:
    """A CSV of these rows, the heads among them; no cell can become a formula (`csv_cell`)."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([csv_cell(cell) for cell in row] for row in rows)
    return stream.getvalue()


def six_digits(cell: T) -> T | float:
    """The nearest number of six significant digits, which does not depend on how a sum was rounded; text as it is."""
    return float(f"{cell:.6g}") if isinstance(cell, float) else cell


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """A line for each row, cells under each other with two spaces between. right: columns that are set to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
