"""`strata analyze`: a question to the codes of a run, answered by a table and a figure."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from strata_sae.pipeline.commands.arguments import MOST_LATENTS, Overrides, RunOrVariant, config_file_of, guard
from strata_sae.pipeline.paths import reader_of

log = logging.getLogger(__name__)

MOST_ROWS, LARGEST = 10**6, 2**53
"""A table is in memory at once, and in one CSV; JSON's numbers are exact up to 2^53."""
What = Annotated[
    str | None, typer.Argument(metavar="[WHAT]", help="The question. Without it: what can be asked, and with what.")
]
Other = Annotated[
    Path | None,
    typer.Option(
        "--other",
        metavar="VARIANT",
        parser=reader_of("--other"),
        help="The second SAE: of the same run, or RUN/VARIANT on the same store.",
    ),
]
Latent = Annotated[
    int | None, typer.Option("--latent", min=0, max=MOST_LATENTS, metavar="N", help="Number of a latent.")
]
N = Annotated[int | None, typer.Option("--n", min=1, max=MOST_ROWS, metavar="N", help="Rows of the table, at most.")]
Least = Annotated[
    float | None, typer.Option("--least", metavar="X", help="Threshold of what is listed; each question says which.")
]
Most = Annotated[
    int | None, typer.Option("--most", min=0, max=LARGEST, metavar="N", help="Rows that a pair may share, at most.")
]
Rows = Annotated[
    str | None, typer.Option("--rows", metavar="ROWS", help="as_trained (default), all_but_special or all.")
]
Searched = Annotated[str | None, typer.Option("--text", metavar="TEXT", help="The text that search looks for.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", parser=reader_of("--out"), help="Where files go; by default <run>/analysis."),
]


def analyze(
    context: typer.Context,
    run: RunOrVariant,
    overrides: Overrides,
    what: What = None,
    other: Other = None,
    latent: Latent = None,
    n: N = None,
    least: Least = None,
    most: Most = None,
    rows: Rows = None,
    text: Searched = None,
    out: Out = None,
) -> None:
    """Questions to the codes of a run's SAEs: which rows, partners, matches, splits; as a CSV and a page.

    The language model is needed by ablate, ablate_tuples and steer alone.
    """
    guard(context, config_file_of(run), overrides)
    from strata_sae.pipeline.analysis.asked import Options
    from strata_sae.pipeline.analysis.questions import asked_of, described, question_of
    from strata_sae.pipeline.analysis.writing import places, printed, write
    from strata_sae.pipeline.outside import outside_stores

    if what is None:
        typer.echo(described())
        return
    run = outside_stores(run, "RUN")
    out = None if out is None else outside_stores(out, "--out")
    options = Options(None if other is None else str(other), latent, n, least, most, rows, text)
    asked = asked_of(run, what, options, overrides)
    if question_of(what).needs_model:
        from strata_sae.pipeline.commands.stages import shows_progress
        from strata_sae.pipeline.intervention.run_model import RunModel

        model = RunModel(asked.run.folder, overrides, [asked.sae.name], show_progress=shows_progress())
        asked = asked._replace(given_model=model)
    at = places(asked, what, options, out)
    answer = question_of(what).answer(asked)
    write(asked, what, answer, at)
    typer.echo(printed(answer))
    log.info("table: %s", at.table)
    log.info("page:  %s", at.page)
