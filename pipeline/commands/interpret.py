"""`strata interpret`: latents put into words by a language model behind an endpoint, and the words scored."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strata_sae.pipeline.commands.arguments import Overrides, config_file_of, config_of, guard
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.paths import reader_of

if TYPE_CHECKING:
    from strata_sae.pipeline.config.interpretation import InterpretationSettings
    from strata_sae.pipeline.endpoint.client import Endpoint
    from strata_sae.pipeline.endpoint.dry_run import DryRun
    from strata_sae.pipeline.queries.opened import CodedSAE
    from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder

log = logging.getLogger(__name__)

Interpreted = Annotated[
    Path,
    typer.Argument(
        metavar="RUN[/VARIANT]",
        parser=reader_of("RUN"),
        help="Folder of a run whose codes are made, or one SAE of it, runs/demo/topk@blocks.8.hook_resid_post.",
    ),
]
DryRunAsked = Annotated[
    bool, typer.Option("--dry-run", help="Count the requests and their tokens; send nothing, write nothing.")
]
Published = Annotated[
    Path | None,
    typer.Option(
        "--published",
        metavar="PATH",
        parser=reader_of("--published"),
        help="Take explanations from Neuronpedia's files instead, a file or a folder of them; nothing is sent.",
    ),
]


def interpret(
    context: typer.Context,
    run: Interpreted,
    overrides: Overrides,
    dry_run: DryRunAsked = False,
    published: Published = None,
) -> None:
    """Explain latents by a language model behind an endpoint, and score the words on documents it has not seen."""
    if published is not None and dry_run:
        raise ConfigError("--dry-run: --published sends nothing; leave one of the two out")
    guard(context, config_file_of(run), overrides)
    from strata_sae.pipeline.commands.push import folder_at
    from strata_sae.pipeline.outside import outside_stores
    from strata_sae.pipeline.runs.addresses import run_of
    from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder

    folder = folder_at(outside_stores(run, "RUN"))
    if published is not None:
        _publish(folder, published)
        return
    settings = config_of(config_file_of(run), overrides).interpretation
    if settings.base_url is None and not dry_run:
        typer.echo(NO_ENDPOINT)
        return
    only = folder.name if isinstance(folder, VariantFolder) else None
    whole = folder if isinstance(folder, RunFolder) else run_of(folder)
    _interpret(whole, only, overrides, _named(settings, dry_run), dry_run)


NO_ENDPOINT = (
    "interpretation: skipped, since no endpoint is named (interpretation.base_url); the token labels of strata codes "
    "need none"
)


def _named(settings: "InterpretationSettings", dry_run: bool) -> "InterpretationSettings":
    """The settings with both models. Raises: ConfigError where one is not named, but in a dry run."""
    advice = {
        "explainer": "name the model that explains, as the server calls it",
        "scorer": "name the model that scores, best another one than the explainer, which would agree with itself",
    }
    missing = {key: f"({key})" for key in advice if getattr(settings, key) is None}
    if missing and not dry_run:
        raise ConfigError("\n".join(f"interpretation.{key}: missing; {advice[key]}" for key in missing))
    return settings.model_copy(update=missing)


def _publish(folder: "RunFolder | VariantFolder", source: Path) -> None:
    from strata_sae.pipeline.interpretation.published import keep_published
    from strata_sae.pipeline.runs.folders import VariantFolder

    if not isinstance(folder, VariantFolder):
        raise ConfigError(f"--published: names files of one SAE; name it too: {folder.path}/VARIANT")
    for line in keep_published(folder, source):
        typer.echo(line)


def _interpret(
    run: "RunFolder", only: str | None, overrides: list[str], settings: "InterpretationSettings", dry_run: bool
) -> None:
    from strata_sae.pipeline.commands.stages import shows_progress
    from strata_sae.pipeline.endpoint.answers import Answers
    from strata_sae.pipeline.endpoint.client import Endpoint
    from strata_sae.pipeline.endpoint.dry_run import DryRun
    from strata_sae.pipeline.interpretation.interpret import interpret
    from strata_sae.pipeline.queries.opened import open_coded

    coded = open_coded(run.path, overrides)
    if only is not None and only not in coded.saes:
        raise ConfigError(f"{run.path}: {only} has no codes yet; make them with: strata codes {run.path}/{only}")
    saes = [sae for name, sae in coded.saes.items() if only in (None, name)]
    answers = Answers(run.answers)
    if dry_run:
        counting = DryRun(answers)
        interpret(coded, saes, settings, counting, write=False)
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
            interpret(coded, saes, settings, endpoint, write=True)
    finally:
        answers.close()
        log.info("%s", was_asked(endpoint))


def _say(line: str) -> None:
    """Also with --quiet: that text leaves the machine is never left unsaid."""
    typer.echo(line, err=True)


@contextmanager
def _alone(run: "RunFolder", saes: "Sequence[CodedSAE]") -> Iterator[None]:
    """Nobody else interprets these SAEs meanwhile, which would be paid for twice, or deletes them.

    Raises: CheckpointError where another process does.
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
    rows = dry_run.counted
    head = ("purpose", "model", "requests", "kept already", "prompt tokens, about", "answer tokens, at most")
    total = [sum(counts) for counts in zip(*(row[2:] for row in rows), strict=True)] or [0] * 4
    cells = [head, *((row.purpose, row.model, *map("{:,}".format, row[2:])) for row in rows)]
    cells.append(("all", "", *map("{:,}".format, total)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)
    return "\n".join([*lines, DRY_RUN_NOTE])


DRY_RUN_NOTE = (
    "A token is counted as four characters. Kept answers cost nothing. Requests that follow an explanation are counted "
    "with one of usual length in its place, and repetitions are not counted."
)


def was_asked(endpoint: "Endpoint") -> str:
    """What was sent and answered, in a line."""
    spent = endpoint.spent
    failed = ", ".join(f"{n:,} {kind}" for kind, n in sorted(spent.failures.items()))
    return (
        f"requests: {spent.n_requests:,} sent ({spent.n_repeated:,} of them again, {spent.n_repairs:,} to repair an answer), "
        f"{spent.n_kept:,} answered from before; {spent.n_tokens:,} tokens; without a readable answer: {failed or 'none'}"
    )
