"""Hypotheses as files: a CSV with HypotheSAEs' columns and more, and a page that shows how sure each one is."""

import csv
import io
import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from markupsafe import Markup

from strata_sae.pipeline.interpretation.hypotheses.flow import Hypotheses, Hypothesis
from strata_sae.pipeline.interpretation.hypotheses.scoring import LEVEL, benjamini_hochberg, bonferroni
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.pages import file_text, policy, template
from strata_sae.pipeline.pages.frame import Frame
from strata_sae.pipeline.pages.text import UNKNOWN, count, csv_cell, visible
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.stores.files.filesystem import write_bytes
from strata_sae.stores.files.hashing import sha256

PACKAGE = "strata_sae.pipeline.interpretation.hypotheses"
PRINTED, LONGEST_WORDS = 10, 60
"""Hypotheses that are printed, and characters of their words."""
LONGEST_NAME = 180
"""Characters of a file's name."""
_UNSAFE = re.compile(r"[^A-Za-z0-9@._+,=-]+")
Cell: TypeAlias = str | int | float | None


class Column(NamedTuple):
    """A column of the table."""

    name: str
    means: str


COLUMNS = (
    Column("latent", "number of the latent"),
    Column("interpretation", "what the words say that it is about; without a language model, tokens of its label"),
    Column(
        "target_score", "what it was chosen by, on the documents of even number: it is large for having been chosen"
    ),
    Column("correlation", "Pearson, of the latent's pooled value and the target, on the documents of odd number"),
    Column("correlation_pval", "two-sided p-value of it"),
    Column("correlation_pval_bonferroni", "the same times the number of tests, at most 1"),
    Column("separation_score", "mean target of the documents that have the concept, minus that of those without"),
    Column("separation_low", "lower end of Welch's 95 % interval"),
    Column("separation_high", "upper end of it"),
    Column("welch_pval", "two-sided p-value of the separation by Welch's t test, whose groups may differ in variance"),
    Column("welch_pval_bonferroni", "the same times the number of tests, at most 1"),
    Column("welch_pval_bh", "false discovery rate at which it counts (Benjamini and Hochberg)"),
    Column("separation_pval", "by Student's t test, of one variance for both groups, as HypotheSAEs has it"),
    Column("regression_coef", "in the regression on all concepts at once: change of the target, or of its log odds"),
    Column("regression_pval", "two-sided p-value of the coefficient"),
    Column("regression_pval_bonferroni", "the same times the number of tests, at most 1"),
    Column("regression_pval_bh", "false discovery rate at which it counts (Benjamini and Hochberg)"),
    Column("feature_prevalence", "share of the documents that have the concept"),
    Column("documents", "documents with an answer"),
    Column("failed", "documents without a readable answer, counted nowhere else"),
    Column("failure", "why there are no words"),
)


def write(run: CodedRun, sae: CodedSAE, found: Hypotheses) -> str:
    """Write <run>/hypotheses/<SAE and options>.csv and .html, each whole or not at all. Returns: what to print.

    Raises: ConfigError if they would lie in a store.
    """
    folder = outside_stores(run.folder.hypotheses, "RUN")
    name = f"{sae.name},target={found.target.name},select={found.select},pool={found.pool}"
    safe = _UNSAFE.sub("_", name)
    if safe != name or len(safe) > LONGEST_NAME:  # two names never become one
        safe = f"{safe[:LONGEST_NAME]}-{sha256(name.encode())[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows_of(found)
    write_bytes(folder / f"{safe}.csv", table(rows).encode("utf-8"))
    write_bytes(folder / f"{safe}.html", page(run, sae, found, rows, f"{safe}.csv").encode("utf-8"))
    return "\n".join([*printed(found, rows), f"table: {folder / safe}.csv", f"page:  {folder / safe}.html"])


def rows_of(found: Hypotheses) -> list[tuple[Cell, ...]]:
    """A row for each hypothesis, by separation score, the largest first, as HypotheSAEs sorts; then those without."""

    def both(p_of: Callable[[Hypothesis], float | None]) -> tuple[list[float | None], list[float | None]]:
        p_values = [p_of(one) for one in found.found]
        return bonferroni(p_values), benjamini_hochberg(p_values)

    correlation, _ = both(lambda one: one.correlation_p)
    welch, welch_bh = both(lambda one: one.score.separation.p)
    coefficient, coefficient_bh = both(lambda one: one.score.coefficient_p)
    rows: list[tuple[Cell, ...]] = []
    for place, one in enumerate(found.found):
        apart = one.score.separation
        rows.append(
            (
                *(one.latent, one.words, one.chosen, one.correlation, one.correlation_p, correlation[place]),
                *(apart.score, apart.low, apart.high, apart.p, welch[place], welch_bh[place], apart.p_student),
                *(one.score.coefficient, one.score.coefficient_p, coefficient[place], coefficient_bh[place]),
                *(one.score.prevalence, one.score.n_documents, one.n_failed, one.failure),
            )
        )
    at = [column.name for column in COLUMNS].index("separation_score")
    return sorted(rows, key=lambda row: (row[at] is None, -float(row[at] or 0)))


def table(rows: list[tuple[Cell, ...]]) -> str:
    """The table as CSV, numbers with six digits: they do not depend on how a sum was rounded."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([column.name for column in COLUMNS])
    writer.writerows([[csv_cell(_six(cell)) for cell in row] for row in rows])
    return stream.getvalue()


def says(found: Hypotheses) -> str:
    """What was done and found, in a few sentences."""
    n, scores = len(found.found), found.scores
    told = ", ".join(f"{name} {value:.3f}" for name, value in scores.metrics.items() if value is not None)
    return (
        f"{n} of {found.n_candidates:,} latents were chosen by {found.select} of their {found.pool} over each document "
        f"with the target, on {found.n_choosing:,} documents of even number. Everything else was measured on "
        f"{found.n_testing:,} documents of odd number. {scores.n_significant} of {n} coefficients have a p-value below "
        f"{LEVEL} / {n}. The regression ({scores.model}) on {scores.n_documents:,} documents: {told or 'none'}. "
        "That a concept goes with the target does not say that it causes it."
    )


def printed(found: Hypotheses, rows: list[tuple[Cell, ...]]) -> list[str]:
    """The sentences and the first rows, for the terminal."""
    names = ("latent", "separation_score", "welch_pval_bonferroni", "regression_coef", "interpretation")
    places = [[column.name for column in COLUMNS].index(name) for name in names]
    cells = [list(names), *([_shown(row[place])[:LONGEST_WORDS] for place in places] for row in rows[:PRINTED])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    more = len(rows) - PRINTED
    title = f"Hypotheses about {found.target.name} ({found.target.means})"
    return [visible(title), says(found), *lines, *([f"... and {more:,} more rows"] if more > 0 else [])]


def page(run: CodedRun, sae: CodedSAE, found: Hypotheses, rows: list[tuple[Cell, ...]], csv_name: str) -> str:
    """The page as one string; it has no script."""
    style = file_text("style.css")
    names = [column.name for column in COLUMNS]
    lows, highs, scores = (names.index(f"separation_{end}") for end in ("low", "high", "score"))
    ends = [value for row in rows for value in (row[lows], row[highs], row[scores]) if isinstance(value, float)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    return template("hypotheses.html.jinja", PACKAGE).render(
        frame=Frame(policy([], style), Markup(style), Markup(""), Markup(""), Markup(""), []),
        title=f"Hypotheses about {found.target.name}",
        says=says(found),
        facts=[
            ("run", run.name),
            ("SAE", sae.name),
            ("target", found.target.means),
            ("words", found.by),
            ("store id", run.text.store.id[:16]),
        ],
        columns=COLUMNS,
        words=names.index("interpretation"),
        rows=[[_shown(cell) for cell in row] for row in rows],
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


def _six(cell: Cell) -> Cell:
    return float(f"{cell:.6g}") if isinstance(cell, float) else cell


def _shown(cell: Cell) -> str:
    if cell is None:
        return UNKNOWN
    return f"{cell:.4g}" if isinstance(cell, float) else visible(str(cell))
