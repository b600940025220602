"""`strata prompt`: a text in the language model of a run, with the latents of its SAEs; ablated, clamped, steered."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.models import OptionInfo

from strata_sae.pipeline.commands.arguments import MOST_LATENTS, Overrides, RunOrVariant, config_file_of, guard
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.paths import reader_of

if TYPE_CHECKING:
    from strata_sae.pipeline.intervention.prompt_view import View
    from strata_sae.pipeline.queries.asked_model import Edit, EditKind
    from strata_sae.pipeline.runs.folders import RunFolder

log = logging.getLogger(__name__)

MOST_NEW_TOKENS = 512
"""As in `queries.asked_model`, which takes long to import."""
Text = Annotated[str, typer.Argument(metavar="TEXT", help="The text; the model's own tokenizer cuts it into tokens.")]


def _repeated(option: str, metavar: str, says: str, most: int | None = None) -> OptionInfo:
    """An option that may be given several times. most: the largest number that it takes; None: it takes text."""
    made: OptionInfo = typer.Option(
        option,
        min=None if most is None else 0,
        max=most,
        metavar=metavar,
        default_factory=list,
        show_default=False,
        help=f"{says}; may be repeated.",
    )
    return made


Marked = Annotated[list[int], _repeated("--latent", "N", "Show this latent on every token", MOST_LATENTS)]
Ablated = Annotated[list[int], _repeated("--ablate", "N", "Set this latent to 0", MOST_LATENTS)]
Clamped = Annotated[list[str], _repeated("--clamp", "N=V", "Set latent N to V, in units of its values")]
Steered = Annotated[list[str], _repeated("--steer", "N=A", "Add A times the direction of latent N")]
NTokens = Annotated[
    int | None,
    typer.Option("--tokens", min=1, max=MOST_NEW_TOKENS, metavar="N", help="Tokens that the model goes on with."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", parser=reader_of("--out"), help="Also a page of the coloured tokens."),
]


def prompt(
    context: typer.Context,
    run: RunOrVariant,
    text: Text,
    overrides: Overrides,
    latent: Marked,
    ablate: Ablated,
    clamp: Clamped,
    steer: Steered,
    tokens: NTokens = None,
    out: Out = None,
) -> None:
    """A text in the language model: every token's latents, and what changes when latents are edited."""
    guard(context, config_file_of(run), overrides)
    from strata_sae.pipeline.commands.push import folder_at
    from strata_sae.pipeline.intervention.prompt_table import lines
    from strata_sae.pipeline.intervention.prompt_view import view
    from strata_sae.pipeline.intervention.run_model import RunModel
    from strata_sae.pipeline.outside import outside_stores
    from strata_sae.pipeline.runs.addresses import run_of
    from strata_sae.pipeline.runs.folders import RunFolder

    page_at = None if out is None else outside_stores(out, "--out")
    folder = folder_at(run)
    whole = folder if isinstance(folder, RunFolder) else run_of(folder)
    named = [] if isinstance(folder, RunFolder) else [folder.name]
    edits = _edits(whole, named, ablate, clamp, steer)
    if latent and not named:
        raise ConfigError(_which(whole, "--latent"))
    model = RunModel(whole, overrides, named)
    prompted = model.prompt(text, edits, n_following=1)
    for number in latent:
        model.opened().check_latent(named[0], number, "--latent")
    ways = {"goes on": [], "goes on, edited": edits} if edits else {"goes on": []}
    going_on = model.continuations(text, list(ways.values()), tokens) if tokens else []
    told = view(prompted, latent, edits, list(zip(ways, going_on, strict=False)), _words(whole.path, overrides))
    typer.echo("\n".join(lines(told, named=bool(latent))))
    if page_at is not None:
        _write(page_at, told, whole.path.resolve().name, text)


def _edits(run: "RunFolder", named: list[str], ablate: list[int], clamp: list[str], steer: list[str]) -> "list[Edit]":
    """The edits, of the SAE that the address names. Raises: ConfigError for one that cannot be read."""
    from strata_sae.pipeline.queries.asked_model import Edit

    given: list[tuple[EditKind, int, float]] = [
        *(("ablate", number, 0.0) for number in ablate),
        *(("clamp", *_pair("--clamp", words)) for words in clamp),
        *(("steer", *_pair("--steer", words)) for words in steer),
    ]
    if given and not named:
        raise ConfigError(_which(run, f"--{given[0][0]}"))
    return [Edit(named[0], number, kind, amount) for kind, number, amount in given]


def _pair(option: str, words: str) -> tuple[int, float]:
    """A latent and an amount, of `17=4.5`."""
    number, _, amount = words.partition("=")
    digits = number.strip()
    if digits.isascii() and digits.isdecimal() and len(digits) <= 10 and int(digits) <= MOST_LATENTS:
        try:
            return int(digits), float(amount)
        except ValueError:
            pass
    raise ConfigError(f"{option}: {words[:60]!a} is not LATENT=AMOUNT; give, for example, {option} 17=4.5")


def _which(run: "RunFolder", option: str) -> str:
    names = [folder.name for folder in run.trained()]
    example = f"strata prompt {run.path}/{names[0] if names else 'VARIANT'} TEXT"
    return f"{option}: is about one SAE; name it: {example}. There are: {', '.join(names) or 'none'}"


def _words(run: Path, overrides: list[str]) -> "Callable[[str, int], str]":
    """What latents mean: by `strata interpret` or published files, else by the tokens that tell when they fire."""
    from strata_sae.pipeline.analysis.names import words_of
    from strata_sae.pipeline.queries.explanations import explanations_of
    from strata_sae.pipeline.queries.opened import open_coded
    from strata_sae.stores import StoreError

    try:
        coded = open_coded(run, overrides)
        explained = {name: explanations_of(sae) for name, sae in coded.saes.items()}
        labels = {name: words_of(coded, sae) for name, sae in coded.saes.items()}
    except ConfigError:  # no SAE has codes
        return lambda name, latent: ""
    except (CheckpointError, StoreError) as error:  # numbers need no words
        log.warning("latents are shown without words: %s", error)
        return lambda name, latent: ""

    def words(name: str, latent: int) -> str:
        if name not in coded.saes:
            return ""
        found = explained[name].of(latent)
        return found.text if found else labels[name](latent)

    return words


def _write(at: Path, told: "View", run: str, text: str) -> None:
    from strata_sae.pipeline.intervention.prompt_page import page
    from strata_sae.stores.files.filesystem import write_bytes

    at.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(at, page(told, run, text).encode("utf-8"))
    log.info("page: %s", at)
