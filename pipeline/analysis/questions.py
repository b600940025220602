"""The questions of `strata analyze`, by name: what each asks, needs and takes."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from strata_sae.pipeline.analysis.answer import Answer
from strata_sae.pipeline.analysis.asked import Asked, Options, opened_at, other_of, population_of
from strata_sae.pipeline.analysis.of_ablations import answer_ablate
from strata_sae.pipeline.analysis.of_effects import answer_ablate_tuples, answer_effects, answer_four_tuples
from strata_sae.pipeline.analysis.of_encoders import answer_pursuit
from strata_sae.pipeline.analysis.of_many import answer_clusters, answer_histograms, answer_labels, answer_search
from strata_sae.pipeline.analysis.of_model import answer_steer
from strata_sae.pipeline.analysis.of_one import answer_examples, answer_logits
from strata_sae.pipeline.analysis.of_pairs import answer_cliques, answer_cofiring, answer_group, answer_pairs
from strata_sae.pipeline.analysis.of_two import answer_absorptions, answer_matches, answer_splits
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.queries.splits import LEAST_INSIDE, LEAST_SILENT
from strata_sae.pipeline.queries.windows import check_latent


class Least(NamedTuple):
    """What `--least` is for a question."""

    means: str
    default: float


class Question(NamedTuple):
    """One thing that a run can be asked."""

    asks: str
    answer: Callable[[Asked], Answer]
    needs: frozenset[str] = frozenset({"sae"})
    """Of sae, other, latent, text."""
    takes: frozenset[str] = frozenset({"rows"})
    """Of other, latent, most, rows, text: what may be given."""
    least: Least | None = None
    n: int = 100
    """Rows of the table where --n is not given."""
    n_is: str = "rows of the table"
    needs_model: bool = False
    """Whether `Asked.model` has to be there."""


SAE, ONE, TWO = frozenset({"sae"}), frozenset({"sae", "latent"}), frozenset({"sae", "other"})
ROWS, MOST = frozenset({"rows"}), frozenset({"rows", "most"})
N_ABLATED = "latents that are set to 0, those with the most activation first"
ANALYSES: dict[str, Question] = {
    "examples": Question("Which rows show what a latent is about?", answer_examples, ONE, n=10, n_is="rows of a kind"),
    "cofiring": Question(
        "Which latents fire together, or together with one?",
        answer_cofiring,
        takes=frozenset({"rows", "latent"}),
        least=Least("rows together, at least", 10),
    ),
    "pairs": Question(
        "Which latents point the same way, and do they fire together?",
        answer_pairs,
        takes=MOST,
        least=Least("cosine, at least", 0.3),
    ),
    "cliques": Question(
        "Which groups of latents all point the same way?", answer_cliques, takes=MOST, least=Least("cosine", 0.3)
    ),
    "group": Question(
        "Which latents lie around one, and never fire together?",
        answer_group,
        ONE,
        least=Least("cosine, at least", 0.4),
        n=10,
        n_is="latents of the group",
    ),
    "clusters": Question(
        "How do the latents cluster by direction?", answer_clusters, least=Least("cosine in a cluster, at least", 0.3)
    ),
    "matches": Question(
        "Which latent of another SAE fires on the same rows?", answer_matches, TWO, least=Least("Jaccard index", 0.0)
    ),
    "splits": Question(
        "Which latents split into several of another, wider SAE?",
        answer_splits,
        TWO,
        least=Least("share of a child's rows that are the parent's", LEAST_INSIDE),
        n_is="parents",
    ),
    "absorptions": Question(
        "Which latents are absorbed by children in another, wider SAE?",
        answer_absorptions,
        TWO,
        least=Least("share of shared rows on which the counterpart is silent", LEAST_SILENT),
    ),
    "effects": Question(
        "Which latents excite or inhibit which of another SAE?", answer_effects, TWO, frozenset(), n=1000
    ),
    "four_tuples": Question(
        "Which two latents agree on one latent of another SAE and disagree on a second?",
        answer_four_tuples,
        TWO,
        frozenset(),
        Least("size of an effect that counts", 0.0),
    ),
    "histograms": Question(
        "How often, and how strongly, do latents fire?", answer_histograms, takes=frozenset({"rows", "latent"})
    ),
    "labels": Question(
        "Which tokens tell when each latent fires?", answer_labels, takes=frozenset(), least=Least("F1", 0.0)
    ),
    "search": Question("Which latents mean a text?", answer_search, frozenset({"text"}), SAE, n=50),
    "pursuit": Question(
        "How well does the encoder do beside gradient pursuit?",
        answer_pursuit,
        takes=frozenset(),
        n=16_384,
        n_is="held-out rows",
    ),
    "ablate": Question(
        "What changes behind a latent that is set to 0: which latents of another SAE, or which predictions?",
        answer_ablate,
        takes=frozenset({"other", "latent", "rows"}),
        least=Least("size of an effect", 0.0),
        n=256,
        n_is=N_ABLATED,
        needs_model=True,
    ),
    "ablate_tuples": Question(
        "Which two latents, when set to 0, agree on one latent of another SAE and disagree on a second?",
        answer_ablate_tuples,
        TWO,
        least=Least("size of an effect that counts", 0.0),
        n=256,
        n_is=N_ABLATED,
        needs_model=True,
    ),
    "steer": Question(
        "How does the model go on after a text with a latent turned up?",
        answer_steer,
        frozenset({"sae", "latent", "text"}),
        frozenset(),
        n=40,
        n_is="tokens of each text",
        needs_model=True,
    ),
    "logits": Question("Which tokens does a latent promote and suppress?", answer_logits, ONE, frozenset(), n=20),
}


def question_of(name: str) -> Question:
    """Raises: ConfigError naming the nearest one."""
    if name in ANALYSES:
        return ANALYSES[name]
    near = difflib.get_close_matches(name, ANALYSES, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(f"WHAT: {name!a} is no question; {hint}There are: {', '.join(ANALYSES)}")


def asked_of(address: Path, name: str, options: Options, overrides: Sequence[str]) -> Asked:
    """A question as it was asked of what lies at an address.

    Raises: ConfigError for an option that it does not take, or needs and was not given; StoreError, CheckpointError.
    """
    question = question_of(name)
    _check_options(name, question, options)
    least = options.least if options.least is not None else (question.least.default if question.least else 0.0)
    population = population_of(options.rows)
    run, sae = opened_at(address, overrides)
    if sae is None and "sae" in question.needs:
        raise ConfigError(
            f"{name}: is asked of one SAE; name it: strata analyze {run.folder.path}/{next(iter(run.saes))} {name}. "
            f"There are: {', '.join(run.saes)}"
        )
    if sae is not None and options.latent is not None:
        check_latent(sae, options.latent)
    other = None if options.other is None else other_of(run, options.other, overrides)
    n = question.n if options.n is None else options.n
    return Asked(run, sae, other, options.latent, n, least, options.most, population, options.text or "")


def _check_options(name: str, question: Question, options: Options) -> None:
    taken = question.needs | question.takes | {"n"} | ({"least"} if question.least else set())
    for option, value in options._asdict().items():
        if value is not None and option not in taken:
            raise ConfigError(
                f"--{option}: {name} takes none; it takes {', '.join(_spelled(question)) or 'no options'}"
            )
        if value is None and option in question.needs:
            raise ConfigError(f"--{option}: {name} needs one; {question.asks}")
    if options.text is not None and not options.text:
        raise ConfigError("--text: is empty; give a word as it stands in the text, such as ' the'")


def _spelled(question: Question) -> list[str]:
    """The options of a question, those that it needs first."""
    needed = [f"--{name}" for name in ("other", "latent", "text") if name in question.needs]
    others = [f"--{name}" for name in ("other", "latent", "most", "rows", "text") if name in question.takes]
    return [*needed, *others, *(["--least"] if question.least else []), "--n"]


def described() -> str:
    """Every question with a line, and the options that it takes."""
    lines, width = [], max(map(len, ANALYSES))
    for name, question in ANALYSES.items():
        least = f"; --least: {question.least.means} ({question.least.default:g})" if question.least else ""
        where = "RUN/VARIANT" if "sae" in question.needs else "RUN"
        where += ", with the model" if question.needs_model else ""
        told = f"--n: {question.n_is} ({question.n}){least}"
        lines += [f"{name:<{width}} {question.asks}", f"{'':<{width}} {where}, {', '.join(_spelled(question))}; {told}"]
    return "\n".join(lines)
