"""What the scores of many latents come to: medians with their noise, and how much was not answered."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from strata_sae.pipeline.config.interpretation import ScoreName
from strata_sae.pipeline.interpretation.scorers import SCORERS
from strata_sae.pipeline.interpretation.statistics import over_latents
from strata_sae.pipeline.runs.evaluation_records import Measured
from strata_sae.pipeline.runs.interpretation_records import GOOD_RATING, ExplainedLatent, InterpretationOf, Scored


class _Median(NamedTuple):
    """A number of a score, of which the median is taken."""

    of: Callable[[Scored], float | None]
    unit: str
    what: str
    has_interval: bool = False


_MEDIANS = {
    "balanced_accuracy": _Median(
        lambda one: one.balanced_accuracy,
        "balanced accuracy, 0 to 1",
        "(recall + share of silent windows that are told to be silent) / 2; 0.5 is chance",
        has_interval=True,
    ),
    "lift": _Median(
        lambda one: one.lift,
        "balanced accuracy above token label",
        "balanced accuracy minus that of the token label on the same windows; 0: no better than a list of tokens",
        has_interval=True,
    ),
    "population_precision": _Median(
        lambda one: one.population_precision,
        "share, 0 to 1",
        "share of active windows among those that the words name, at the population's share of active windows",
    ),
    "f1": _Median(lambda one: one.f1, "F1, 0 to 1", "F1 on windows of which about half are active"),
    "correlation": _Median(
        lambda one: one.correlation, "Pearson, -1 to 1", "correlation of a window's largest value with the answer"
    ),
}


def totals(
    latents: Sequence[ExplainedLatent], of: InterpretationOf, scores: Sequence[ScoreName], seed: int
) -> dict[str, Measured]:
    """Metrics over the finished latents. seed: of the resamples of their intervals."""
    by = f"Explained by {of.explainer}, scored by {of.scorer or 'nobody'}"
    by += ", one model, so this says how well it agrees with itself." if of.explainer == of.scorer else "."
    explained = [one.explanation is not None for one in latents]
    found = {"explained": _share(explained, "share of latents", f"Latents with a readable explanation. {by}")}
    for name in scores:
        found |= dict(_of_ratings(latents, by) if name == "monosemanticity" else _of_score(latents, name, seed, by))
    return found


def _of_score(
    latents: Sequence[ExplainedLatent], name: ScoreName, seed: int, by: str
) -> Iterator[tuple[str, Measured]]:
    """Medians of one score. None where no latent has a value."""
    scored = [one.scores[name] for one in latents if name in one.scores]
    left_out = {
        *([] if SCORERS[name].is_of_population else ["population_precision"]),
        *([] if SCORERS[name].has_correlation else ["correlation"]),
    }
    for key, median in _MEDIANS.items():
        if key in left_out:
            continue
        values = [median.of(one) for one in scored]
        estimate = over_latents(values, seed, f"{name} {key}")
        n = sum(value is not None for value in values)
        definition = (
            f"Median over {n} of {len(values)} latents (null below half of them), {name} on documents that the "
            f"explainer has not seen: {median.what}. {by}"
        )
        yield f"{name}_{key}", Measured(value=estimate.value, unit=median.unit, definition=definition)
        if median.has_interval:
            bounds = (estimate.interval.low, estimate.interval.high) if estimate.interval else (None, None)
            for end, bound in zip(("low", "high"), bounds, strict=True):
                says = f"The {end} end of the 95 % interval of {name}_{key}: bootstrap over latents."
                yield f"{name}_{key}_{end}", Measured(value=bound, unit=median.unit, definition=says)
    n_failed = sum(one.n_failed for one in scored)
    n_windows = sum(one.n_windows for one in scored)
    share = n_failed / n_windows if n_windows else None
    definition = f"Windows of {name} without a readable answer; they count in no other number. {by}"
    yield f"{name}_failed", Measured(value=share, unit="share of windows", definition=definition)


def _of_ratings(latents: Sequence[ExplainedLatent], by: str) -> Iterator[tuple[str, Measured]]:
    ratings = [one.rating for one in latents if one.rating is not None]
    high = f"Latents whose windows of the largest values were rated {GOOD_RATING} or 5 of 5 (FAST, section 5). {by}"
    yield "rating_high", _share([rating >= GOOD_RATING for rating in ratings], "share of rated latents", high)
    failed = [one.rating is None for one in latents]
    yield "rating_failed", _share(failed, "share of latents", f"Latents without a readable rating. {by}")


def _share(are: Sequence[bool], unit: str, definition: str) -> Measured:
    return Measured(value=sum(are) / len(are) if are else None, unit=unit, definition=definition)
