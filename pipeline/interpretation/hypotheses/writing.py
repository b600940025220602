"""Hypotheses as files: a CSV with HypotheSAEs' columns and more, and a page that shows how sure each one is."""

from strata_sae.pipeline.interpretation.hypotheses.columns import COLUMNS, Row, rows_of, says, shown, tested_by
from strata_sae.pipeline.interpretation.hypotheses.flow import Hypotheses
from strata_sae.pipeline.interpretation.hypotheses.page import page
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.pages.tables import aligned, csv_text, six_digits
from strata_sae.pipeline.pages.text import visible
from strata_sae.pipeline.paths import safe_name
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.stores.files.filesystem import write_bytes

PRINTED, LONGEST_WORDS = 10, 60
"""Hypotheses that are printed, and characters of their words."""


def write(run: CodedRun, sae: CodedSAE, found: Hypotheses) -> str:
    """Write <run>/hypotheses/<SAE and options>.csv and .html, each whole or not at all. Returns: what to print.

    Raises: ConfigError if they would lie in a store.
    """
    folder = outside_stores(run.folder.hypotheses, "RUN")
    options = {"target": found.target.name, "select": found.select, "pool": found.pool, "n": found.n_asked}
    words = "words=model" if found.is_by_model else "words=labels"
    name = safe_name(",".join([sae.name, *(f"{option}={value}" for option, value in options.items()), words]))
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows_of(found)
    write_bytes(folder / f"{name}.csv", table(rows).encode("utf-8"))
    write_bytes(folder / f"{name}.html", page(run, sae, found, rows, f"{name}.csv").encode("utf-8"))
    return "\n".join([*printed(found, rows), f"table: {folder / name}.csv", f"page:  {folder / name}.html"])


def table(rows: list[Row]) -> str:
    """The table as CSV, numbers with six digits: they do not depend on how a sum was rounded."""
    return csv_text([[column.name for column in COLUMNS], *(map(six_digits, row) for row in rows)])


def printed(found: Hypotheses, rows: list[Row]) -> list[str]:
    """The sentences and the first rows, for the terminal."""
    names = ("latent", "separation_score", tested_by(found), "regression_coef", "interpretation")
    places = [[column.name for column in COLUMNS].index(name) for name in names]
    cells = [list(names), *([shown(row[place])[:LONGEST_WORDS] for place in places] for row in rows[:PRINTED])]
    more = len(rows) - PRINTED
    title = f"Hypotheses about {found.target.name} ({found.target.means})"
    return [visible(title), says(found), *aligned(cells), *([f"... and {more:,} more rows"] if more > 0 else [])]
