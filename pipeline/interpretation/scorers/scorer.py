"""From an explanation and windows to requests, and from their answers to a score."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from strata_sae.pipeline.endpoint.request import Answered, Request
from strata_sae.pipeline.interpretation.excerpts import Material
from strata_sae.pipeline.interpretation.scorers.asking import N_SHOWN, Prompt, filled
from strata_sae.pipeline.interpretation.scorers.trials import Asked, Trial, question_of
from strata_sae.pipeline.interpretation.statistics import (
    Rate,
    balanced_accuracy,
    f1,
    pearson,
    population_precision,
    rate_of,
)
from strata_sae.pipeline.runs.interpretation_records import OfKind, Scored
from strata_sae.stores import permutation


class Scorer(NamedTuple):
    """A way to test an explanation by windows that fit it or do not."""

    purpose: str
    prompt: Prompt
    trials: Callable[[Material, int], list[Trial]]
    """Of the material and a seed: the windows in any order."""
    shown: Callable[[Sequence[Trial]], list[str]]
    """The texts of one request."""
    label_says: Callable[[Trial, Collection[int]], bool]
    """What the latent's token label, a set of token ids, answers to a trial."""
    is_of_population: bool
    """Whether its silent windows of kind `zero` are windows of the population drawn at random, as they stand."""
    has_correlation: bool

    def requests(self, model: str, explanation: str, material: Material, seed: int) -> list[Asked]:
        """What is asked about an explanation; nothing where windows of one truth are missing."""
        trials = self.trials(material, seed)
        if len({trial.truth for trial in trials}) < 2:
            return []
        order = permutation(["scorers", self.purpose, seed, material.latent], len(trials)).tolist()
        groups = [[trials[place] for place in order[at : at + N_SHOWN]] for at in range(0, len(order), N_SHOWN)]
        return [Asked(self._request(model, explanation, group, seed), group) for group in groups]

    def _request(self, model: str, explanation: str, group: list[Trial], seed: int) -> Request:
        question = question_of(explanation, filled(self.shown(group)))
        return self.prompt.request(model, question, self.purpose, seed)

    def scored(
        self,
        asked: Sequence[Asked],
        answers: Sequence[Answered[list[int]]],
        material: Material,
        token_label: Collection[int] | None,
    ) -> Scored:
        """What the answers come to. token_label: ids of the tokens of the latent's label; None: it has none."""
        judged = list(_judged(asked, answers))
        answered = [(trial, named) for trial, named in judged if named is not None]
        active, silent = _named(answered, truth=True), _named(answered, truth=False)
        value, interval = balanced_accuracy(active, silent)
        precision, of_precision = None, None
        if self.is_of_population:
            drawn = _named([pair for pair in answered if pair[0].excerpt.kind == "zero"], truth=False)
            precision, of_precision = population_precision(material.window_density, active, drawn)
        label, lift = self._lift(answered, token_label)
        n_named = active.n_hits + silent.n_hits
        return Scored(
            true_positives=active.n_hits,
            false_positives=silent.n_hits,
            true_negatives=silent.n - silent.n_hits,
            false_negatives=active.n - active.n_hits,
            n_failed=len(judged) - len(answered),
            kinds=_by_kind(judged),
            balanced_accuracy=value,
            interval=interval,
            precision=active.n_hits / n_named if n_named else None,
            recall=active.value,
            f1=f1(active.n_hits, silent.n_hits, active.n - active.n_hits),
            population_precision=precision,
            population_interval=of_precision,
            correlation=_correlation(answered) if self.has_correlation else None,
            token_label=label,
            lift=lift,
        )

    def _lift(
        self, answered: Sequence[tuple[Trial, bool]], label: Collection[int] | None
    ) -> tuple[float | None, float | None]:
        """The label's balanced accuracy on windows that are no near misses, and by how much the words beat it there."""
        if not label:
            return None, None
        fair = [pair for pair in answered if pair[0].excerpt.kind != "near_miss"]
        by_label = [(trial, self.label_says(trial, label)) for trial, _ in fair]
        of_label, of_words = (
            balanced_accuracy(_named(pairs, truth=True), _named(pairs, truth=False))[0] for pairs in (by_label, fair)
        )
        return of_label, None if of_label is None or of_words is None else of_words - of_label


def _judged(asked: Sequence[Asked], answers: Sequence[Answered[list[int]]]) -> Iterable[tuple[Trial, bool | None]]:
    """Each trial with its answer; None: there is none that can be read."""
    for one, answer in zip(asked, answers, strict=True):
        for place, trial in enumerate(one.trials):
            yield trial, None if answer.value is None else bool(answer.value[place])


def _named(answered: Iterable[tuple[Trial, bool]], *, truth: bool) -> Rate:
    """How often windows of a truth were named."""
    some = [(named, trial.excerpt.document) for trial, named in answered if trial.truth is truth]
    return rate_of([named for named, _ in some], [document for _, document in some])


def _by_kind(judged: Sequence[tuple[Trial, bool | None]]) -> dict[str, OfKind]:
    kinds = sorted({trial.excerpt.kind for trial, _ in judged})
    answers = {kind: [answer for trial, answer in judged if trial.excerpt.kind == kind] for kind in kinds}
    return {
        kind: OfKind(n_windows=len(some), n_named=some.count(True), n_failed=some.count(None))
        for kind, some in answers.items()
    }


def _correlation(answered: Sequence[tuple[Trial, bool]]) -> float | None:
    values = [max(trial.excerpt.values, key=abs, default=0.0) for trial, _ in answered]
    return pearson(values, [named for _, named in answered])
