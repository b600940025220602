"""The table of hypotheses: its columns, its rows, and what the numbers say in words."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from strata_sae.pipeline.interpretation.hypotheses.flow import Hypotheses, Hypothesis
from strata_sae.pipeline.interpretation.hypotheses.scoring import LEVEL, benjamini_hochberg, bonferroni
from strata_sae.pipeline.pages.text import UNKNOWN, visible

Cell: TypeAlias = str | int | float | None
Row: TypeAlias = tuple[Cell, ...]


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
    Column("exact_pval", "of a yes or no: two-sided p-value of Fisher's exact test of concept and target"),
    Column("exact_pval_bonferroni", "the same times the number of tests, at most 1"),
    Column("separation_pval", "by Student's t test, of one variance for both groups, as HypotheSAEs has it"),
    Column("regression_coef", "in the regression on all concepts at once: change of the target, or of its log odds"),
    Column("regression_pval", "two-sided p-value of the coefficient"),
    Column("regression_pval_bonferroni", "the same times the number of tests, at most 1"),
    Column("regression_pval_bh", "false discovery rate at which it counts (Benjamini and Hochberg)"),
    Column("feature_prevalence", "share of the documents that have the concept"),
    Column("documents", "documents with an answer"),
    Column("failed", "documents without a readable answer, counted nowhere else"),
    Column("failure", "why there are no words; as N: latent N has the same ones, and they are tested there alone"),
)


def rows_of(found: Hypotheses) -> list[Row]:
    """A row for each hypothesis, by separation score, the largest first, as HypotheSAEs sorts; then those without."""

    def both(p_of: Callable[[Hypothesis], float | None]) -> tuple[list[float | None], list[float | None]]:
        p_values = [p_of(one) for one in found.found]
        return bonferroni(p_values), benjamini_hochberg(p_values)

    correlation, _ = both(lambda one: one.correlation_p)
    welch, welch_bh = both(lambda one: one.score.separation.p)
    exact, _ = both(lambda one: one.score.separation.p_exact)
    coefficient, coefficient_bh = both(lambda one: one.score.coefficient_p)
    rows: list[Row] = []
    for place, one in enumerate(found.found):
        apart = one.score.separation
        rows.append(
            (
                *(one.latent, one.words, one.chosen, one.correlation, one.correlation_p, correlation[place]),
                *(apart.score, apart.low, apart.high, apart.p, welch[place], welch_bh[place]),
                *(apart.p_exact, exact[place], apart.p_student),
                *(one.score.coefficient, one.score.coefficient_p, coefficient[place], coefficient_bh[place]),
                *(one.score.prevalence, one.score.n_documents, one.n_failed, one.failure),
            )
        )
    at = [column.name for column in COLUMNS].index("separation_score")
    return sorted(rows, key=lambda row: (row[at] is None, -float(row[at] or 0)))


def tested_by(found: Hypotheses) -> str:
    """The column with the p-values that fit the target: exact ones of a yes or no."""
    return "exact_pval_bonferroni" if found.target.is_binary else "welch_pval_bonferroni"


def says(found: Hypotheses) -> str:
    """What was done and found, in a few sentences."""
    n, scores = len(found.found), found.scores
    copies = f" ({found.n_copies:,} copies of the former left out)" if found.n_copies else ""
    n_read = found.n_annotated
    drawn = f", the words on {n_read:,} of them, drawn by the seed" if n_read < found.n_testing else ""
    chosen = (
        f"{n} of {found.n_candidates:,} latents were chosen by {found.select} of their {found.pool} over each document "
        f"with the target, on {found.n_choosing:,} documents of even number. Everything else was measured on "
        f"{found.n_testing:,} documents of odd number{drawn}{copies}."
    )
    if not scores.n_tested:
        return f"{chosen} No concept could be tested."
    told = ", ".join(f"{name} {value:.3f}" for name, value in scores.metrics.items() if value is not None)
    return (
        f"{chosen} {scores.n_significant} of {scores.n_tested} coefficients have a p-value below {LEVEL} / "
        f"{scores.n_tested}. The regression ({scores.model}), fitted to {scores.n_documents:,} documents and measured "
        f"on the same: {told or 'none'}. "
        "That a concept goes with the target does not say that it causes it."
    )


def shown(cell: Cell) -> str:
    """A cell as text."""
    if cell is None:
        return UNKNOWN
    return f"{cell:.4g}" if isinstance(cell, float) else visible(str(cell))
