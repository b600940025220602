"""What commands that need answers of a language model share: SAEs opened and claimed, requests made and counted."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeAlias

import typer

from strata_sae.pipeline.errors import ConfigError

if TYPE_CHECKING:
    from strata_sae.pipeline.config.interpretation import InterpretationSettings
    from strata_sae.pipeline.endpoint.client import Endpoint
    from strata_sae.pipeline.endpoint.dry_run import DryRun
    from strata_sae.pipeline.endpoint.request import Asks
    from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
    from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder

    Work: TypeAlias = Callable[[CodedRun, list[CodedSAE], InterpretationSettings, Asks | None], None]
    """What is done with the SAEs; None in the place of an endpoint: none is named."""

log = logging.getLogger(__name__)


def ask(
    folder: "RunFolder | VariantFolder",
    overrides: list[str],
    settings: "InterpretationSettings",
    dry_run: bool,
    work: "Work",
) -> None:
    """Run `work` on the SAEs: with the endpoint, with a dry run that counts, or with None where no server is named."""
    from strata_sae.pipeline.commands.stages import shows_progress
    from strata_sae.pipeline.endpoint.answers import Answers
    from strata_sae.pipeline.endpoint.client import Endpoint
    from strata_sae.pipeline.endpoint.dry_run import DryRun
    from strata_sae.pipeline.queries.opened import open_coded
    from strata_sae.pipeline.runs.addresses import run_of
    from strata_sae.pipeline.runs.folders import RunFolder

    only = None if isinstance(folder, RunFolder) else folder.name
    run = folder if isinstance(folder, RunFolder) else run_of(folder)
    coded = open_coded(run.path, overrides)
    if only is not None and only not in coded.saes:
        raise ConfigError(f"{run.path}: {only} has no codes yet; make them with: strata codes {run.path}/{only}")
    saes = [sae for name, sae in coded.saes.items() if only in (None, name)]
    if settings.base_url is None and not dry_run:
        work(coded, saes, settings, None)
        return
    answers = Answers(run.answers)
    if dry_run:
        counting = DryRun(answers)
        work(coded, saes, settings, counting)
        typer.echo(would_ask(counting))
        return
    if settings.scorer == settings.explainer:
        log.warning(
            "interpretation.scorer: is the explainer itself, so the scores say how well %s agrees with itself",
            settings.scorer,
        )
    endpoint = Endpoint(settings, answers, _say, show_progress=shows_progress())
    try:
        with _alone(run, saes):
            work(coded, saes, settings, endpoint)
    finally:
        answers.close()
        log.info("%s", was_asked(endpoint))


def _say(line: str) -> None:
    """Print a line to stderr, with --quiet too: it may say that text leaves the machine."""
    typer.echo(line, err=True)


@contextmanager
def _alone(run: "RunFolder", saes: "Sequence[CodedSAE]") -> Iterator[None]:
    """The block in which no other process interprets these SAEs, which would be paid for twice, or deletes them.

    Raises: CheckpointError where another process does so now.
    """
    from strata_sae.pipeline.runs.claims import busy, claim_in, interpretation_of

    with ExitStack() as stack:
        for sae in saes:
            name = interpretation_of(sae.name)
            hold = claim_in(run, name)
            if hold is None:
                raise busy(run, [name])
            stack.enter_context(hold)
        yield


def would_ask(dry_run: "DryRun") -> str:
    """What a dry run counted, a line for each purpose and model."""
    from strata_sae.pipeline.pages.tables import aligned

    rows = dry_run.counted
    head = ("purpose", "model", "requests", "kept already", "prompt tokens, about", "answer tokens, at most")
    total = [sum(counts) for counts in zip(*(row[2:] for row in rows), strict=True)] or [0] * 4
    cells = [head, *((row.purpose, row.model, *map("{:,}".format, row[2:])) for row in rows)]
    cells.append(("all", "", *map("{:,}".format, total)))
    return "\n".join([*aligned(cells), DRY_RUN_NOTE])


DRY_RUN_NOTE = (
    "A token is counted as four characters. Kept answers cost nothing. Requests that follow an explanation are counted "
    "with one of usual length in its place, and repetitions are not counted."
)


def was_asked(endpoint: "Endpoint") -> str:
    """What was sent and answered, in a line."""
    spent = endpoint.spent
    failed = ", ".join(f"{n:,} {kind}" for kind, n in sorted(spent.failures.items()))
    again = f"; {spent.n_unanswered:,} got no answer: the same command asks again" if spent.n_unanswered else ""
    return (
        f"requests: {spent.n_requests:,} sent ({spent.n_repeated:,} of them again, {spent.n_repairs:,} to repair an "
        f"answer), {spent.n_kept:,} answered from before; {spent.n_tokens:,} tokens; without a readable answer: "
        f"{failed or 'none'}{again}"
    )
