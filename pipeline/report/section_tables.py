"""A table of a section as the page shows it, and as the file `<run>/tables/<name>.csv` holds it."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from strata_sae.pipeline.pages.tables import csv_text
from strata_sae.pipeline.pages.text import DECIMALS, UNKNOWN, count, show
from strata_sae.pipeline.report.sections import Section, SectionTable
from strata_sae.stores.files.filesystem import write_bytes

SHORT = 26
"""Characters of a unit that stand below a heading; what is longer is told below the table."""
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class ShownCell(NamedTuple):
    """A cell: by what it is sorted, which is empty for what is not known, and as it is read."""

    key: str
    text: str
    is_number: bool


class ShownHead(NamedTuple):
    """A heading, and its unit where that is short."""

    label: str
    unit: str


class ShownTable(NamedTuple):
    """A table in text."""

    name: str
    caption: str
    heads: list[ShownHead]
    rows: list[list[ShownCell]]
    terms: list[tuple[str, str]]
    """Headings whose definition is too long to stand below them, with it."""


def shown_table(table: SectionTable) -> ShownTable:
    """The cells of a table as text."""
    heads = [ShownHead(label, unit if len(unit) <= SHORT else "") for label, unit in table.heads]
    rows = [[_cell(value, unit) for value, (_, unit) in zip(row, table.heads, strict=True)] for row in table.rows]
    terms = [(label, unit) for label, unit in table.heads if len(unit) > SHORT]
    return ShownTable(table.name, table.caption, heads, rows, terms)


def spelt(value: float | None, unit: str) -> str:
    """A number as people read it: the digits that its unit is worth, a true minus sign, a power of ten if small."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if isinstance(value, int) and unit not in DECIMALS:
        return count(value).replace("-", "\N{MINUS SIGN}")
    if value and abs(value) < 1e-3 and unit not in DECIMALS:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{digits}·10{str(int(power)).translate(_RAISED)}".replace("-", "\N{MINUS SIGN}")
    text = show(value, unit)
    return (text if text.strip("-0.") else text.lstrip("-")).replace("-", "\N{MINUS SIGN}")


def _cell(value: str | float | None, unit: str) -> ShownCell:
    if isinstance(value, str):
        return ShownCell(value, value, is_number=False)
    is_known = value is not None and math.isfinite(value)
    return ShownCell(repr(value) if is_known else "", spelt(value, unit), is_number=True)


def table_csv(table: SectionTable) -> str:
    """The same cells, numbers with all their digits; no cell can become a formula."""
    heads = [f"{label} [{unit}]" if unit else label for label, unit in table.heads]
    return csv_text([heads, *([_finite(cell) for cell in row] for row in table.rows)])


def _finite(cell: str | float | None) -> str | float | None:
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def write_tables(folder: Path, sections: Iterable[Section]) -> None:
    """Write `<name>.csv` of every table; a table that the page has no more is removed."""
    tables = {f"{table.name}.csv": table_csv(table) for section in sections for table in section.tables}
    for name, text in tables.items():
        write_bytes(folder / name, text.encode("utf-8"))
    for path in folder.glob("*.csv"):
        if path.name not in tables:
            path.unlink()
