"""Hypotheses of a small run: one half of the documents chooses, the other tests; words through a server; files."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strata_sae.pipeline.config.interpretation import InterpretationSettings
from strata_sae.pipeline.endpoint.answers import Answers
from strata_sae.pipeline.endpoint.client import Endpoint
from strata_sae.pipeline.endpoint.dry_run import DryRun
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.interpretation.hypotheses import flow, wording
from strata_sae.pipeline.interpretation.hypotheses.documents import texts_of, token_sums
from strata_sae.pipeline.interpretation.hypotheses.flow import Wanted, hypotheses_of, hypothesise
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.pipeline.queries.pooled import PooledCodes
from support.coded_run import SITE, WORDS, make, opened
from support.fake_endpoint import FakeEndpoint, always, serving

PLANTED = 9
"""A token; the target is how often it stands in a document, so that the latents of the token tell it."""
LATENT = 5
"""One that is active in about half of the documents."""
SETTINGS = InterpretationSettings(explainer="one", scorer="other")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make(made := tmp_path_factory.mktemp("coded"))
    return made


@pytest.fixture
def run(folder: Path) -> CodedRun:
    return opened(folder)


@pytest.fixture
def sae(run: CodedRun) -> CodedSAE:
    return run.saes[f"wide@{SITE}"]


def counts(run: CodedRun) -> dict[int, int]:
    return {n: int((run.text.token_id[run.text.document == n] == PLANTED).sum()) for n in range(40)}


def write_targets(folder: Path, values: dict[int, float], name: str = "rating") -> Path:
    path = folder / f"{name}.csv"
    path.write_text(f"document,{name}\n" + "".join(f"{n},{value}\n" for n, value in values.items()), encoding="utf-8")
    return path


def planted(run: CodedRun, folder: Path) -> Path:
    rng = np.random.default_rng(0)
    return write_targets(folder, {n: count + 0.1 * rng.standard_normal() for n, count in counts(run).items()})


@pytest.mark.parametrize("select", ["correlation", "lasso", "separation"])
@pytest.mark.parametrize("is_binary", [False, True])
def test_what_was_planted_is_found_on_the_other_half(
    run: CodedRun, sae: CodedSAE, tmp_path: Path, select: str, is_binary: bool
) -> None:
    """The target is a latent's own pooled value, with noise; or whether that is above its median."""
    pooled = PooledCodes(sae, run.text)
    value_D = pooled.of([LATENT])[:, 0]
    noisy_D = value_D + 0.05 * value_D.std() * np.random.default_rng(0).standard_normal(len(value_D))
    target_D = noisy_D > np.median(noisy_D) if is_binary else noisy_D
    path = write_targets(tmp_path, dict(zip(pooled.documents.tolist(), target_D.astype(float).tolist(), strict=True)))
    found = hypotheses_of(run, sae, Wanted("rating", path, select, n=3), SETTINGS, None)
    one = next(one for one in found.found if one.latent == LATENT)
    assert one.chosen > 0
    assert one.correlation == pytest.approx(1, abs=0.3 if is_binary else 0.02)
    apart = one.score.separation
    assert ((apart.p_exact if is_binary else apart.p) or 1) < 0.01 / 3
    assert (one.words or "") == wording.labels_of(run, sae, [LATENT])[0] != ""
    assert (found.n_choosing, found.n_testing) == (20, 20)
    assert found.scores.metrics["auroc" if is_binary else "r2"] > 0.5


def test_a_target_of_chance_is_not_found(run: CodedRun, sae: CodedSAE, tmp_path: Path) -> None:
    """The chosen latents correlate strongly where they were chosen, and no more on the documents that test."""
    rng = np.random.default_rng(5)
    path = write_targets(tmp_path, dict(enumerate(rng.standard_normal(40).tolist())))
    found = hypotheses_of(run, sae, Wanted("rating", path, n=10), SETTINGS, None)
    assert np.mean([abs(one.chosen) for one in found.found]) > 0.3
    assert abs(np.mean([(one.correlation or 0) * np.sign(one.chosen) for one in found.found])) < 0.2
    assert min((one.score.separation.p or 1) * 10 for one in found.found) > 0.1


def test_each_half_does_its_part_and_no_more(run: CodedRun, sae: CodedSAE, tmp_path: Path) -> None:
    values = {n: float(count) for n, count in counts(run).items()}
    other = {n: value if n % 2 == 0 else -value for n, value in values.items()}
    one, turned = (
        hypotheses_of(run, sae, Wanted("rating", write_targets(tmp_path, known), n=4), SETTINGS, None)
        for known in (values, other)
    )
    assert [(h.latent, h.chosen) for h in one.found] == [(h.latent, h.chosen) for h in turned.found]
    for before, after in zip(one.found, turned.found, strict=True):
        assert before.correlation == pytest.approx(-(after.correlation or 0))
        assert before.score.separation.score == pytest.approx(-(after.score.separation.score or 0))
    chooser = {n: value if n % 2 else -value for n, value in values.items()}
    third = hypotheses_of(run, sae, Wanted("rating", write_targets(tmp_path, chooser), n=4), SETTINGS, None)
    assert [-h.chosen for h in third.found] == pytest.approx([h.chosen for h in one.found])
    assert [h.correlation for h in third.found] == [h.correlation for h in one.found]


def test_texts_are_those_of_the_documents(run: CodedRun) -> None:
    texts = texts_of(run.text, [7, 0, 7])
    assert texts[0] == texts[2] != texts[1]
    rows = np.flatnonzero(run.text.document == 7)[1:]  # without BOS
    assert texts[0] == "".join(WORDS[token] for token in run.text.token_id[rows].tolist())
    shuffled = opened(run.folder.path.parents[1])
    order = np.random.default_rng(1).permutation(run.text.n_rows)
    for name in ("token_id", "document", "position"):
        shuffled.text.__dict__[name] = getattr(run.text, name)[order]
    assert texts_of(shuffled.text, [7, 0, 7]) == texts


def test_a_copy_of_a_document_that_chose_does_not_test(run: CodedRun, sae: CodedSAE, tmp_path: Path) -> None:
    """Documents 1 and 3 get the tokens of 0 and 2; 5 gets those of 7, which is no copy of one that chooses."""
    wanted = Wanted("rating", planted(run, tmp_path), n=2)
    assert hypotheses_of(run, sae, wanted, SETTINGS, None).n_copies == 0
    of, document = run.text.token_id.copy(), run.text.document
    for copy, original in ((1, 0), (3, 2), (5, 7)):
        of[document == copy] = of[document == original]
    run.text.__dict__["token_id"] = of
    found = hypotheses_of(run, sae, wanted, SETTINGS, None)
    assert (found.n_copies, found.n_testing, found.n_choosing) == (2, 18, 20)
    sums_D = token_sums(run.text, np.arange(40)).tolist()
    assert (len(set(sums_D)), sums_D[1], sums_D[5]) == (37, sums_D[0], sums_D[7])
    # The same tokens in another order are another text.
    of[document == 1] = np.concatenate([of[document == 0][:1], of[document == 0][:0:-1]])
    assert hypotheses_of(run, sae, wanted, SETTINGS, None).n_copies == 1


def test_documents_are_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    places, documents = np.arange(0, 60, 2), np.arange(60) + 100
    whole = wording.drawn(places, documents, 0)
    assert sorted(whole.tolist()) == places.tolist() != whole.tolist()
    assert wording.drawn(places, documents, 1).tolist() != whole.tolist()
    monkeypatch.setattr(wording, "MOST_ANNOTATED", 7)
    assert wording.drawn(places, documents, 0).tolist() == whole[:7].tolist()
    assert wording.drawn(places[5:], documents, 0).tolist() == [p for p in whole.tolist() if p in places[5:]][:7]


def truth(chat: Any) -> Any:
    """Every latent is said to be about the planted word; a text fits where the word stands in it."""
    if chat.model == "one":
        return f"EXPLANATION: the word{WORDS[PLANTED]}"
    texts = [line.partition(": ")[2] for line in chat.messages[-1].content.splitlines() if line[:2] in _NUMBERS]
    return [f"{WORDS[PLANTED]} " in f"{text} ".replace('"', " ") for text in texts[-5:]]


_NUMBERS = {f"{number}:" for number in range(1, 6)}


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    with serving(FakeEndpoint(truth)) as fake:
        yield fake


def asked(fake: FakeEndpoint, folder: Path) -> tuple[InterpretationSettings, Endpoint]:
    settings = SETTINGS.model_copy(update={"base_url": fake.url, "retries": 0})
    return settings, Endpoint(settings, Answers(folder / "answers"), lambda line: None)


def test_words_are_annotated_on_unseen_documents(
    run: CodedRun, sae: CodedSAE, tmp_path: Path, server: FakeEndpoint
) -> None:
    path = planted(run, tmp_path)
    found = hypotheses_of(run, sae, Wanted("rating", path, n=2), *asked(server, tmp_path))
    has = {n: count > 0 for n, count in counts(run).items() if n % 2}
    values = {int(n): float(v) for n, v in (line.split(",") for line in path.read_text().splitlines()[1:])}
    apart = np.mean([values[n] for n in has if has[n]]) - np.mean([values[n] for n in has if not has[n]])
    one, same = found.found
    assert one.words == same.words == f"the word{WORDS[PLANTED]}"
    assert one.score.separation.score == pytest.approx(apart)
    assert (one.score.n_documents, one.n_failed, one.failure) == (20, 0, None)
    assert one.score.prevalence == pytest.approx(sum(has.values()) / 20)
    # The same words are one hypothesis: one test, and one column of the regression.
    assert (same.score.n_documents, same.n_failed, same.failure) == (0, 0, f"as {one.latent}")
    assert (same.score.coefficient, same.score.separation.p) == (None, None)
    assert found.scores.n_documents == 20
    odd = set(texts_of(run.text, range(1, 40, 2)))
    shown = [chat.messages[-1].content for chat in server.chats if chat.model == "other"]
    assert len(shown) == 4  # twenty texts, five in each; equal words are asked about once
    assert sum(text in "\n".join(shown) for text in odd) == 20
    assert not any(text in content for text in texts_of(run.text, range(0, 40, 2)) for content in shown)
    server.chats.clear()
    again = hypotheses_of(run, sae, Wanted("rating", path, n=2), *asked(server, tmp_path))
    assert (again, server.chats) == (found, [])


def test_answers_that_fail_are_counted(run: CodedRun, sae: CodedSAE, tmp_path: Path) -> None:
    path = planted(run, tmp_path)
    with serving(FakeEndpoint(truth, fault=lambda chat: "garbage" if chat.model == "other" else None)) as fake:
        found = hypotheses_of(run, sae, Wanted("rating", path, n=2), *asked(fake, tmp_path))
    assert [(one.n_failed, one.score.n_documents, one.score.prevalence) for one in found.found] == [
        (20, 0, None),
        (0, 0, None),
    ]
    assert found.scores.metrics == {}
    with serving(FakeEndpoint(truth, fault=always("garbage"))) as fake:
        found = hypotheses_of(run, sae, Wanted("rating", path, n=2), *asked(fake, tmp_path / "other"))
    assert [(one.words, one.failure) for one in found.found] == [(None, "unreadable")] * 2


def test_a_dry_run_counts_and_writes_nothing(run: CodedRun, sae: CodedSAE, tmp_path: Path) -> None:
    dry = DryRun()
    assert hypothesise(run, sae, Wanted("rating", planted(run, tmp_path), n=2), SETTINGS, dry) == ""
    assert {one.purpose: one.n_requests for one in dry.counted} == {"explain": 2, "annotate": 8}
    assert not run.folder.hypotheses.exists()


def test_the_files(folder: Path, run: CodedRun, sae: CodedSAE, tmp_path: Path) -> None:
    name = "<b>rating</b>"
    path = write_targets(tmp_path, {n: float(c) for n, c in counts(run).items()}, name="x").rename(tmp_path / "t.csv")
    path.write_text(path.read_text().replace("document,x", f"document,{name}"))
    text = hypothesise(run, sae, Wanted(name, path, n=4), SETTINGS, None)
    table, page = sorted(run.folder.hypotheses.iterdir())
    assert str(table) in text
    assert str(page) in text
    assert table.stem == page.stem
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 4
    scores = [float(row["separation_score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    html = page.read_text()
    assert "<b>" not in html
    assert "&lt;b&gt;rating&lt;/b&gt;" in html
    assert "<script" not in html
    assert html.count("<svg") == 4
    before = {file: file.read_bytes() for file in (table, page)}
    hypothesise(run, sae, Wanted(name, path, n=4), SETTINGS, None)
    assert {file: file.read_bytes() for file in (table, page)} == before
    for file in (table, page):
        file.unlink()
    run.folder.hypotheses.rmdir()


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"select": "best"}, "--select: 'best' is not known; allowed: correlation, lasso, separation"),
        ({"pool": "sum"}, "--pool: 'sum' is not known; allowed: max, mean"),
        ({"n": 0}, "--n: 0 is not allowed"),
        ({"target": "other"}, "--target: 'other' is no column"),
    ],
)
def test_options_that_are_refused(
    run: CodedRun, sae: CodedSAE, tmp_path: Path, wanted: dict[str, Any], says: str
) -> None:
    asked = Wanted(**{"target": "rating", "targets": planted(run, tmp_path), **wanted})
    with pytest.raises(ConfigError, match=says):
        hypotheses_of(run, sae, asked, SETTINGS, None)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({n: float(n) for n in range(0, 40, 2)}, "of 0 documents of odd number, which test the latents; 10 are needed"),
        ({n: float(n) for n in range(1, 40, 2)}, "of 0 documents of even number, which choose the latents"),
        ({n: float(n % 2) for n in range(40)}, "is the same of all 20 documents of even number"),
        ({n: float(n) for n in range(100, 140)}, "of 0 documents of even number"),
    ],
)
def test_targets_that_one_half_lacks(
    run: CodedRun, sae: CodedSAE, tmp_path: Path, values: dict[int, float], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        hypotheses_of(run, sae, Wanted("rating", write_targets(tmp_path, values)), SETTINGS, None)


def test_a_latents_threshold_is_of_the_documents_that_chose_it(run: CodedRun, sae: CodedSAE, tmp_path: Path) -> None:
    found = hypotheses_of(run, sae, Wanted("rating", planted(run, tmp_path), n=3, pool="max"), SETTINGS, None)
    pooled = PooledCodes(sae, run.text, "max")
    for one in found.found:
        value_D = pooled.of([one.latent])[:, 0]
        is_odd_D = pooled.documents % 2 == 1
        high_D = value_D[is_odd_D] > np.median(value_D[~is_odd_D])
        assert one.score.prevalence == pytest.approx(high_D.mean())


def test_missing_models_are_named(run: CodedRun, sae: CodedSAE, tmp_path: Path) -> None:
    wanted = Wanted("rating", planted(run, tmp_path), n=2)
    for missing in ("explainer", "scorer"):
        with pytest.raises(ConfigError, match=rf"interpretation\.{missing}: names no model"):
            hypotheses_of(run, sae, wanted, SETTINGS.model_copy(update={missing: None}), DryRun())


def test_without_scikit_learn_a_line_says_so(
    run: CodedRun, sae: CodedSAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--target: needs scikit-learn: pip install 'strata-sae\[interpret\]'"):
        hypotheses_of(run, sae, Wanted("rating", planted(run, tmp_path)), SETTINGS, None)
