"""What the scores of many latents come to: medians with their noise, and how much was not answered."""

from collections.abc import Callable, Iterator, Sequence

from strata_sae.pipeline.config.interpretation import ScoreName
from strata_sae.pipeline.interpretation.statistics import over_latents
from strata_sae.pipeline.runs.evaluation_records import Measured
from strata_sae.pipeline.runs.interpretation_records import ExplainedLatent, Scored

GOOD_RATING = 4
"""From which FAST (section 5) counts a latent as monosemantic."""


def totals(latents: Sequence[ExplainedLatent], scores: Sequence[ScoreName], seed: int) -> dict[str, Measured]:
    """Metrics over the finished latents. seed: of the resamples of their intervals."""
    found = {
        "explained": _share(
            [one.explanation is not None for one in latents],
            "share of latents",
            "Latents that got a readable explanation, of those that were asked for.",
        )
    }
    for name in scores:
        if name == "monosemanticity":
            found |= _of_ratings(latents)
        else:
            found |= dict(_of_score(latents, name, seed))
    return found


def _of_score(latents: Sequence[ExplainedLatent], name: str, seed: int) -> Iterator[tuple[str, Measured]]:
    """Medians of one score. None where no latent has a value."""
    scored = [one.scores[name] for one in latents if name in one.scores]
    for value, (of, unit, what) in _MEDIANS.items():
        values = [of(one) for one in scored]
        estimate = over_latents(values, seed, f"{name} {value}")
        n = sum(one is not None for one in values)
        text = f"Median over {n} latents of the {what}, {name}, on documents that the explainer has not seen."
        yield f"{name}_{value}", Measured(value=estimate.value, unit=unit, definition=text)
        for end, which in (("low", "Lower"), ("high", "Upper")):
            bound = getattr(estimate.interval, end) if estimate.interval else None
            says = f"{which} end of the 95 % interval of {name}_{value}: bootstrap over latents."
            yield f"{name}_{value}_{end}", Measured(value=bound, unit=unit, definition=says)
    n_failed = sum(one.n_failed for one in scored)
    n_windows = n_failed + sum(
        one.true_positives + one.false_positives + one.true_negatives + one.false_negatives for one in scored
    )
    yield (
        f"{name}_failed",
        Measured(
            value=n_failed / n_windows if n_windows else None,
            unit="share of windows",
            definition=f"Windows of {name} without a readable answer; they count in no other number.",
        ),
    )


_MEDIANS: dict[str, tuple[Callable[[Scored], float | None], str, str]] = {
    "balanced_accuracy": (
        lambda one: one.balanced_accuracy,
        "balanced accuracy, 0 to 1",
        "(recall + share of silent windows that are told to be silent) / 2; 0.5 is chance",
    ),
    "lift": (
        lambda one: one.lift,
        "balanced accuracy, -1 to 1",
        "balanced accuracy minus that of the token label on the same windows; 0: no better than a list of tokens",
    ),
    "population_precision": (
        lambda one: one.population_precision,
        "share, 0 to 1",
        "share of active windows among those that the words name, at the population's share of active windows",
    ),
    "f1": (lambda one: one.f1, "F1, 0 to 1", "F1 on windows of which half are active, as HypotheSAEs has it"),
    "correlation": (
        lambda one: one.correlation,
        "Pearson, -1 to 1",
        "correlation of a window's largest value with the answer",
    ),
}


def _of_ratings(latents: Sequence[ExplainedLatent]) -> dict[str, Measured]:
    rated = [one.rating for one in latents if one.rating is not None]
    return {
        "monosemanticity_good": _share(
            [rating >= GOOD_RATING for rating in rated],
            "share of rated latents",
            f"Latents whose windows of the largest values were rated {GOOD_RATING} or 5 of 5 (FAST, section 5).",
        ),
        "monosemanticity_failed": _share(
            [one.rating is None for one in latents], "share of latents", "Latents without a readable rating."
        ),
    }


def _share(are: Sequence[bool], unit: str, definition: str) -> Measured:
    return Measured(value=sum(are) / len(are) if are else None, unit=unit, definition=definition)
