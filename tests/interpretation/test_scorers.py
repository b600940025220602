"""Scores of explanations by somebody who knows the truth, its opposite, or nothing."""

import json
from dataclasses import dataclass

import pytest

from strata_sae.pipeline.endpoint.request import Request
from strata_sae.pipeline.interpretation.excerpts import Excerpt, Material
from strata_sae.pipeline.interpretation.scorers import SCORERS, LatentScores, score
from strata_sae.pipeline.interpretation.scorers.asking import N_SHOWN, NO_WINDOWS
from strata_sae.pipeline.interpretation.scorers.monosemanticity import rating_request
from strata_sae.pipeline.interpretation.scorers.trials import Trial, silent_windows
from strata_sae.pipeline.runs.interpretation_records import Scored
from support.made_up_windows import OWN, Answering, coin, excerpt, items, material, truths

NAMES = (*SCORERS, "monosemanticity")


@dataclass
class Knowing:
    """Answers with the truth, or its opposite; rates with 5."""

    is_inverted: bool = False

    def __post_init__(self) -> None:
        self.known = {
            asked.request.key(): [int(truth != self.is_inverted) for truth in truths(asked)]
            for item in items()
            for scorer in SCORERS.values()
            for asked in scorer.requests("judge", item.explanation or "", item.material, 0)
        }

    def __call__(self, request: Request) -> str:
        return "[5]" if request.purpose == "monosemanticity" else json.dumps(self.known[request.key()])


def scored(knowing: Knowing) -> list[LatentScores]:
    return score(Answering(knowing), "judge", NAMES, items(), 0)


@pytest.mark.parametrize("name", SCORERS)
def test_who_knows_the_truth_gets_1_and_its_opposite_0(name: str) -> None:
    for right, wrong in zip(scored(Knowing()), scored(Knowing(is_inverted=True)), strict=True):
        best, worst = right.scores[name], wrong.scores[name]
        assert best.balanced_accuracy == best.precision == best.recall == best.f1 == 1
        assert worst.balanced_accuracy == worst.precision == worst.recall == worst.f1 == 0
        assert best.n_failed == worst.n_failed == 0
        assert right.rating == 5
        assert not right.is_cut
        assert best.interval is not None
        assert best.interval.low < 1 == best.interval.high
        assert worst.interval is not None
        assert worst.interval.low == 0 < worst.interval.high


def test_a_coin_is_at_chance_within_its_interval() -> None:
    found = score(Answering(coin), "judge", list(SCORERS), items(20), 0)
    within = [one.scores[name].interval for one in found for name in SCORERS]
    n_within = sum(interval is not None and interval.low <= 0.5 <= interval.high for interval in within)
    assert len(within) == 60
    assert n_within >= 54
    accuracies = [one.scores["detection"].balanced_accuracy or 0 for one in found]
    assert 0.45 < sum(accuracies) / len(accuracies) < 0.55


def test_numbers_are_those_of_counting_windows() -> None:
    """A judge that says yes to all windows that hold OWN: wrong on near misses alone."""

    def by_word(request: Request) -> str:
        lines = request.messages[0].content.partition("Your task.")[2].partition("Texts:\n")[2].splitlines()[:N_SHOWN]
        texts = [json.loads(line.partition(": ")[2]) for line in lines]
        return json.dumps([int(f" w{OWN} " in f"{text} ") for text in texts])

    (found,) = score(Answering(by_word), "judge", ["detection"], items(1), 0)
    detection = found.scores["detection"]
    n, n_hard = 14, 14 // 4
    assert detection.kinds["quantiles"].n_named == detection.true_positives == n
    assert detection.kinds["near_miss"].n_named == detection.false_positives == n_hard
    assert (detection.kinds["zero"].n_windows, detection.kinds["neighbour"].n_windows) == (n - 2 * n_hard, n_hard)
    assert detection.balanced_accuracy == pytest.approx((1 + (n - n_hard) / n) / 2)
    assert detection.precision == n / (n + n_hard)
    # Near misses are no part of the population's precision, nor of the comparison with the token label.
    assert detection.population_precision == 1 == detection.token_label
    assert detection.lift == 0


def test_the_token_label_is_judged_on_the_same_windows() -> None:
    """A label of another token than the latent's own, by counting; words beat it by the rest."""
    label = (OWN + 1, OWN + 2)
    some = items(1, label)
    (found,) = score(Answering(Knowing()), "judge", ["detection", "fuzzing"], some, 0)
    windows = [one for one in some[0].material.active if one.kind == "quantiles"]
    silent = [one for one in silent_windows(some[0].material, len(windows)) if one.kind != "near_miss"]
    shares = [
        sum(any(token_id in label for token_id in one.token_ids) is truth for one in group) / len(group)
        for group, truth in ((windows, True), (silent, False))
    ]
    detection = found.scores["detection"]
    assert detection.token_label == pytest.approx(sum(shares) / 2)
    assert detection.lift == pytest.approx(1 - sum(shares) / 2)
    # Of the marked tokens, which are OWN twice, none is of the label.
    fuzzing = found.scores["fuzzing"]
    assert fuzzing.kinds["quantiles"].n_windows == len(windows)
    assert (fuzzing.token_label or 0) <= 0.5
    assert found.scores["detection"].population_precision == 1
    assert fuzzing.population_precision is None


def test_the_populations_precision_is_at_its_share_of_active_windows() -> None:
    """Of a coin, by hand: recall of all active windows, false alarms of those drawn at random alone."""
    (found,) = score(Answering(coin), "judge", ["detection"], items(1), 0)
    detection = found.scores["detection"]
    recall = detection.kinds["quantiles"].n_named / detection.kinds["quantiles"].n_windows
    false_alarms = detection.kinds["zero"].n_named / detection.kinds["zero"].n_windows
    named_active = material().window_density * recall
    expected = named_active / (named_active + (1 - material().window_density) * false_alarms)
    assert 0 < expected < 1
    assert detection.population_precision == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("label", "says"), [((OWN,), True), ((OWN, 30), True), ((31,), False)])
def test_a_token_label_takes_marks_for_right_that_are_half_its_own(label: tuple[int, ...], says: bool) -> None:
    excerpt = material().active[0]._replace(token_ids=[OWN, OWN, 30, 31, 1, 2])
    assert SCORERS["fuzzing"].label_says(Trial(excerpt, frozenset({0, 1, 2, 3}), truth=True), label) is says
    assert not SCORERS["fuzzing"].label_says(Trial(excerpt, frozenset({1, 4, 5}), truth=True), (OWN,))


def test_a_latent_without_a_label_has_no_lift() -> None:
    unlabelled = [item._replace(token_label=None) for item in items(1)]
    (found,) = score(Answering(Knowing()), "judge", ["detection"], unlabelled, 0)
    assert found.scores["detection"].token_label is found.scores["detection"].lift is None


def test_fidelity_is_of_the_largest_and_of_silent_windows_with_a_correlation() -> None:
    (found,) = score(Answering(Knowing()), "judge", ["fidelity"], items(1), 0)
    fidelity = found.scores["fidelity"]
    assert set(fidelity.kinds) == {"top", "zero"}
    assert fidelity.population_precision is None
    assert fidelity.correlation is not None
    assert 0.9 < fidelity.correlation < 1


@pytest.mark.parametrize("words", ["", "yes", "[1, 0]", "[1, 0, 1, 0, 2]", "[1,0,1,0,1] or [0,0,0,0,0]", "[[1,0,1,0,1"])
def test_what_cannot_be_read_is_counted_and_no_answer(words: str) -> None:
    for one in score(Answering(lambda request: words), "judge", NAMES, items(2), 0):
        for scored_ in one.scores.values():
            assert scored_.n_failed == sum(kind.n_failed for kind in scored_.kinds.values()) > 20
            assert scored_.balanced_accuracy is scored_.interval is scored_.precision is scored_.lift is None
        assert one.rating is None
        assert one.rating_failure == "unreadable"
        assert not one.is_cut


def test_failed_answers_are_left_out_of_the_numbers() -> None:
    """Every second request fails; what is left is right."""
    knowing = Knowing()
    (found,) = score(
        Answering(lambda request: knowing(request) if int(request.key(), 16) % 2 else "?"), "judge", ["detection"],
        items(1), 0,
    )  # fmt: skip
    detection = found.scores["detection"]
    n_windows = sum(kind.n_windows for kind in detection.kinds.values())
    assert 0 < detection.n_failed < n_windows
    assert detection.balanced_accuracy == 1
    counted = detection.true_positives + detection.true_negatives + detection.n_failed
    assert counted == n_windows
    assert detection.false_positives == detection.false_negatives == 0


def test_a_budget_that_ends_cuts_the_last_latents_alone() -> None:
    n_requests = len(Knowing().known)
    found = score(Answering(Knowing(), budget=3 + n_requests // 2), "judge", NAMES, items(), 0)
    assert [one.is_cut for one in found] == [False, True, True]
    assert [one.rating for one in found] == [5, 5, 5]
    assert found[0].scores == scored(Knowing())[0].scores


def test_a_rating_that_was_not_asked_for_cuts_its_latent() -> None:
    found = score(Answering(Knowing(), budget=2), "judge", ["monosemanticity"], items(), 0)
    assert [(one.rating, one.is_cut) for one in found] == [(5, False), (5, False), (None, True)]


def test_all_windows_of_all_latents_are_asked_for_in_one_call() -> None:
    asks = Answering(Knowing())
    score(asks, "judge", NAMES, items(), 0)
    ratings, windows = asks.calls
    assert len(ratings) == 3
    assert {request.purpose for request in windows} == set(SCORERS)
    assert len({request.key() for request in windows}) == len(windows) == len(Knowing().known)
    assert {request.model for request in ratings + windows} == {"judge"}
    nothing = Answering(Knowing())
    assert score(nothing, "judge", NAMES, [], 0) == []
    assert nothing.calls == []


def test_a_latent_without_words_is_rated_and_not_scored() -> None:
    mute = items(1)[0]._replace(explanation=None)
    (found,) = score(Answering(Knowing()), "judge", NAMES, [mute], 0)
    assert found == LatentScores({}, 5, None, is_cut=False)


def test_a_latent_with_windows_of_one_truth_has_no_numbers() -> None:
    one = items(1)[0]
    bare = one._replace(material=one.material._replace(silent=[], active=one.material.active[:1]))
    (found,) = score(Answering(Knowing()), "judge", NAMES, [bare], 0)
    assert all(scored_.kinds == {} and scored_.balanced_accuracy is None for scored_ in found.scores.values())
    assert found.rating is None
    assert found.rating_failure == NO_WINDOWS
    assert rating_request("judge", material()._replace(active=[]), 0) is None


def test_requests_are_a_function_of_the_material_and_the_seed() -> None:
    def keys(seed: int, some: Material) -> list[str]:
        return [one.request.key() for name in SCORERS for one in SCORERS[name].requests("judge", "words", some, seed)]

    assert keys(0, material()) == keys(0, material()) != keys(1, material())


def test_silent_windows_are_half_drawn_and_half_hard_as_far_as_there_are_such() -> None:
    def counts(some: Material, n: int) -> dict[str, int]:
        kinds = [one.kind for one in silent_windows(some, n)]
        return {kind: kinds.count(kind) for kind in ("zero", "near_miss", "neighbour")}

    whole = material(n=20)
    assert counts(whole, 20) == {"zero": 10, "near_miss": 5, "neighbour": 5}
    easy = whole._replace(silent=[one for one in whole.silent if one.kind == "zero"])
    assert counts(easy, 20) == {"zero": 20, "near_miss": 0, "neighbour": 0}
    hard = whole._replace(silent=[one for one in whole.silent if one.kind != "zero"])
    assert counts(hard, 20) == {"zero": 0, "near_miss": 10, "neighbour": 10}


def test_marks_of_wrong_windows_are_as_many_as_those_of_right_ones() -> None:
    def trials(some: Material) -> list[tuple[bool, int]]:
        return [(one.truth, len(one.marked)) for one in SCORERS["fuzzing"].trials(some, 0)]

    found = trials(material())
    assert sorted(n for truth, n in found if truth) == sorted(n for truth, n in found if not truth)
    # 2 of 4 + number / 8 is at least 0.3 of it up to number 21; the third value, 0.1, never is.
    assert {n for _, n in found} == {2}
    long = material(n=30)
    assert {n for truth, n in trials(long) if truth} == {1, 2}
    found = trials(long)
    assert sorted(n for truth, n in found if truth) == sorted(n for truth, n in found if not truth)
    blank = [one._replace(texts=[" "] * len(one.texts)) for one in material().silent]
    assert all(truth for truth, _ in trials(material()._replace(silent=blank)))


def test_negative_values_count_by_their_size() -> None:
    """Of a latent that may be negative: the same marks, and the opposite correlation."""
    some = material()
    turned = some._replace(active=[one._replace(values=[-value for value in one.values]) for one in some.active])
    marks = [[one.marked for one in SCORERS["fuzzing"].trials(of, 0)] for of in (some, turned)]
    assert marks[0] == marks[1]
    item = items(1)[0]
    plain, opposite = (
        score(Answering(Knowing()), "judge", ["fidelity"], [item._replace(material=of)], 0)[0].scores["fidelity"]
        for of in (some._replace(latent=0), turned._replace(latent=0))
    )
    assert plain.correlation is not None
    assert opposite.correlation == pytest.approx(-plain.correlation)
    assert opposite.recall == plain.recall == 1


def test_windows_of_one_document_widen_the_interval() -> None:
    def width(found: Scored) -> float:
        assert found.interval is not None
        return found.interval.high - found.interval.low

    one = items(1)[0]

    def in_one(some: list[Excerpt]) -> list[Excerpt]:
        return [window._replace(document=1) for window in some]

    together = one._replace(
        material=one.material._replace(active=in_one(one.material.active), silent=in_one(one.material.silent))
    )
    wide, narrow = (
        score(Answering(Knowing()), "judge", ["detection"], [item], 0)[0].scores["detection"]
        for item in (together, one)
    )
    assert wide.balanced_accuracy == narrow.balanced_accuracy == 1
    assert width(wide) > 3 * width(narrow)


def test_answers_stay_with_their_latents() -> None:
    """Of the first none can be read."""
    some, knowing = items(), Knowing()
    first = SCORERS["detection"].requests("judge", some[0].explanation or "", some[0].material, 0)
    lost = {one.request.key() for one in first}
    asks = Answering(lambda request: "lost" if request.key() in lost else knowing(request))
    found = score(asks, "judge", ["detection"], some, 0)
    assert [one.scores["detection"].balanced_accuracy for one in found] == [None, 1, 1]


def test_windows_stand_as_they_are() -> None:
    some = SCORERS["detection"].requests("judge", "words", material(), 0)
    shown = [line for one in some for line in one.request.messages[0].content.splitlines() if line[:1].isdigit()]
    assert len(shown) == 2 * N_SHOWN * len(some)
    texts = {json.loads(line.partition(": ")[2]) for line in shown}
    assert "".join(excerpt("zero", 0).texts) in texts
