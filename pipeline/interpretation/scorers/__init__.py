"""How well words tell when a latent fires: all scores of many explanations, asked together."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from strata_sae.pipeline.config.interpretation import ScoreName
from strata_sae.pipeline.endpoint.request import Answered, Asks
from strata_sae.pipeline.interpretation.excerpts import Material
from strata_sae.pipeline.interpretation.scorers.asking import N_SHOWN, answers_to
from strata_sae.pipeline.interpretation.scorers.detection import DETECTION
from strata_sae.pipeline.interpretation.scorers.fidelity import FIDELITY
from strata_sae.pipeline.interpretation.scorers.fuzzing import FUZZING
from strata_sae.pipeline.interpretation.scorers.monosemanticity import STAND_IN, rating_request, read_rating
from strata_sae.pipeline.interpretation.scorers.scorer import Scorer
from strata_sae.pipeline.interpretation.scorers.trials import read_answer
from strata_sae.pipeline.runs.interpretation_records import Scored

SCORERS: dict[ScoreName, Scorer] = {"detection": DETECTION, "fuzzing": FUZZING, "fidelity": FIDELITY}
"""The rating (`monosemanticity`) is no score of the words: it has requests of its own."""


class Item(NamedTuple):
    """A latent whose explanation is scored."""

    material: Material
    explanation: str | None
    """None: it has none, and gets no more than a rating."""
    token_label: Collection[int] | None
    """Ids of the tokens of its label; None: it has none."""


class LatentScores(NamedTuple):
    """What is known of an explanation now."""

    scores: dict[str, Scored]
    rating: int | None
    rating_failure: str | None
    """Why there is none; None also where none was asked for."""
    is_cut: bool
    """Whether something about it was not asked, because the budget was spent."""


def score(asks: Asks, model: str, names: Collection[ScoreName], items: Sequence[Item], seed: int) -> list[LatentScores]:
    """The scores of explanations in the order of the items.

    The ratings are asked for first, in one call, then all windows of all scores in another, latent by latent: a budget
    that ends cuts the last latents alone. Raises: EndpointError as `asks.ask`.
    """
    scorers = {name: SCORERS[name] for name in SCORERS if name in names}
    ratings = [Answered[int](None, None)] * len(items)
    if "monosemanticity" in names:
        rated = [rating_request(model, item.material, seed) for item in items]
        ratings = answers_to(asks, rated, read_rating, STAND_IN)
    asked = [
        {name: scorer.requests(model, item.explanation, item.material, seed) for name, scorer in scorers.items()}
        if item.explanation is not None
        else {}
        for item in items
    ]
    requests = [one.request for of_item in asked for some in of_item.values() for one in some]
    answers = iter(asks.ask(requests, read_answer, [0] * N_SHOWN) if requests else [])
    found = []
    for item, of_item, rating in zip(items, asked, ratings, strict=True):
        answered = {name: [next(answers) for _ in some] for name, some in of_item.items()}
        scores = {
            str(name): SCORERS[name].scored(some, answered[name], item.material, item.token_label)
            for name, some in of_item.items()
        }
        is_cut = rating.is_unasked or any(answer.is_unasked for some in answered.values() for answer in some)
        found.append(LatentScores(scores, rating.value, rating.failure, is_cut))
    return found
