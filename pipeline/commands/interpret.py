"""`strata interpret`: latents put into words by a language model behind an endpoint, and the words scored."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strata_sae.pipeline.commands.arguments import Overrides, RunOrVariant, config_file_of, config_of, guard
from strata_sae.pipeline.commands.asking import ask
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.paths import reader_of

if TYPE_CHECKING:
    from strata_sae.pipeline.config.interpretation import InterpretationSettings
    from strata_sae.pipeline.endpoint.request import Asks
    from strata_sae.pipeline.interpretation.hypotheses.flow import Wanted
    from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
    from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder

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
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="NAME[=VALUE]",
        help="Test hypotheses about a column that the store keeps for each document, or about one value of it, instead "
        "of explaining latents alone.",
    ),
]
Targets = Annotated[
    Path | None,
    typer.Option(
        "--targets",
        metavar="FILE",
        parser=reader_of("--targets"),
        help="Take the column from a CSV with the columns document and NAME; with --target.",
    ),
]
Select = Annotated[
    str | None,
    typer.Option(
        metavar="WAY",
        show_default="correlation",
        help="correlation, lasso or separation: how --target selects latents.",
    ),
]
Pool = Annotated[
    str | None, typer.Option(metavar="WAY", show_default="mean", help="mean or max, of a document; with --target.")
]
N = Annotated[
    int | None,
    typer.Option("--n", min=1, max=1000, metavar="N", show_default="20", help="Latents that --target selects."),
]


def interpret(
    context: typer.Context,
    run: RunOrVariant,
    overrides: Overrides,
    dry_run: DryRunAsked = False,
    published: Published = None,
    target: Target = None,
    targets: Targets = None,
    select: Select = None,
    pool: Pool = None,
    n: N = None,
) -> None:
    """Explain latents by a language model behind an endpoint, and score the words on documents it has not seen."""
    hypotheses = {"--targets": targets, "--select": select, "--pool": pool, "--n": n}
    if given := [option for option, value in hypotheses.items() if value is not None and target is None]:
        raise ConfigError(f"{given[0]}: says how hypotheses about a column are tested; give --target NAME too")
    if published is not None and (dry_run or target is not None):
        raise ConfigError("--published: takes files and asks nothing; leave --dry-run and --target out")
    guard(context, config_file_of(run), overrides)
    from strata_sae.pipeline.commands.push import folder_at
    from strata_sae.pipeline.outside import outside_stores

    folder = folder_at(outside_stores(run, "RUN"))
    if published is not None:
        _publish(folder, published)
        return
    settings = config_of(config_file_of(run), overrides).interpretation
    if settings.base_url is None and not dry_run and target is None:
        typer.echo(NO_ENDPOINT)
        return
    if settings.base_url is not None or dry_run:
        settings = _named(settings, dry_run, target is not None)
    if target is None:
        ask(folder, overrides, settings, dry_run, _explained)
    else:
        from strata_sae.pipeline.interpretation.hypotheses.flow import Wanted

        wanted = Wanted(target, targets, select or "correlation", pool or "mean", n or 20)
        ask(folder, overrides, settings, dry_run, partial(_tested, wanted))


NO_ENDPOINT = (
    "interpretation: skipped, since no endpoint is named (interpretation.base_url); the token labels of strata codes "
    "need none"
)


def _named(settings: "InterpretationSettings", dry_run: bool, tests_hypotheses: bool) -> "InterpretationSettings":
    """The settings with the models that are asked. Raises: ConfigError where one is not named, but in a dry run."""
    advice = {
        "explainer": "name the model that explains, as the server calls it",
        "scorer": "name the model that scores, best another one than the explainer, which would agree with itself",
    }
    if not settings.scores and not tests_hypotheses:
        advice.pop("scorer")
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


def _explained(
    run: "CodedRun", saes: "list[CodedSAE]", settings: "InterpretationSettings", asks: "Asks | None"
) -> None:
    from strata_sae.pipeline.endpoint.dry_run import DryRun
    from strata_sae.pipeline.interpretation.interpret import interpret

    assert asks is not None  # without an endpoint nothing is explained
    interpret(run, saes, settings, asks, write=not isinstance(asks, DryRun))


def _tested(
    wanted: "Wanted", run: "CodedRun", saes: "list[CodedSAE]", settings: "InterpretationSettings", asks: "Asks | None"
) -> None:
    from strata_sae.pipeline.interpretation.hypotheses.flow import hypothesise

    for sae in saes:
        if text := hypothesise(run, sae, wanted, settings, asks):
            typer.echo(text)
