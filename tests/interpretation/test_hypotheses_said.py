"""What is said of hypotheses, and counted for them, is what was done: halves that were drawn, budgets, dry runs."""

from pathlib import Path

import numpy as np
import pytest

from strata_sae.pipeline.config.interpretation import InterpretationSettings
from strata_sae.pipeline.endpoint.answers import Answers
from strata_sae.pipeline.endpoint.client import Endpoint
from strata_sae.pipeline.endpoint.dry_run import DryRun
from strata_sae.pipeline.interpretation.hypotheses import wording
from strata_sae.pipeline.interpretation.hypotheses.columns import rows_of, says
from strata_sae.pipeline.interpretation.hypotheses.flow import Wanted, hypotheses_of
from strata_sae.pipeline.interpretation.hypotheses.page import page
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from support.coded_run import SITE, make, opened
from support.fake_endpoint import Chat, FakeEndpoint, serving

SETTINGS = InterpretationSettings(explainer="/home/ann/one.gguf", scorer="other", retries=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> CodedRun:
    make(made := tmp_path_factory.mktemp("coded"))
    return opened(made)


@pytest.fixture
def sae(run: CodedRun) -> CodedSAE:
    return run.saes[f"wide@{SITE}"]


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    values = np.random.default_rng(0).standard_normal(40)
    path = tmp_path / "rating.csv"
    path.write_text("document,rating\n" + "".join(f"{n},{value}\n" for n, value in enumerate(values)))
    return Wanted("rating", path, n=3)


def truth(chat: Chat) -> str:
    """Every latent has words of its own; no text fits, or every one, which varies with the words."""
    return f"EXPLANATION: words {chat.key}" if chat.model == SETTINGS.explainer else "[1, 0, 1, 0, 1]"


def endpoint(fake: FakeEndpoint, folder: Path, **changes: int) -> Endpoint:
    settings = SETTINGS.model_copy(update={"base_url": fake.url, **changes})
    return Endpoint(settings, Answers(folder / "answers"), lambda line: None)


def test_a_dry_run_after_the_run_finds_every_answer(
    run: CodedRun, sae: CodedSAE, wanted: Wanted, tmp_path: Path
) -> None:
    with serving(FakeEndpoint(truth)) as fake:
        hypotheses_of(run, sae, wanted, SETTINGS, endpoint(fake, tmp_path))
    dry = DryRun(Answers(tmp_path / "answers"))
    hypotheses_of(run, sae, wanted, SETTINGS, dry)
    assert {one.purpose: (one.n_requests, one.n_kept) for one in dry.counted} == {
        "explain": (3, 3),
        "annotate": (12, 12),
    }


def test_documents_that_no_model_has_read_are_told_from_those_that_test_the_words(
    run: CodedRun, sae: CodedSAE, wanted: Wanted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wording, "MOST_ANNOTATED", 15)
    with serving(FakeEndpoint(truth)) as fake:
        found = hypotheses_of(run, sae, wanted, SETTINGS, endpoint(fake, tmp_path))
    assert (found.n_testing, found.n_annotated, found.found[0].score.n_documents) == (20, 15, 15)
    assert "measured on 20 documents of odd number, the words on 15 of them, drawn by the seed" in says(found)
    plain = hypotheses_of(run, sae, wanted, SETTINGS, None)
    assert (plain.n_testing, plain.n_annotated) == (20, 20)
    assert "measured on 20 documents of odd number." in says(plain)
    # The regression is measured on the documents that it was fitted to, which flatters it.
    assert "fitted to 20 documents and measured on the same" in says(plain)


def test_a_budget_that_ends_is_said(
    run: CodedRun, sae: CodedSAE, wanted: Wanted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(FakeEndpoint(truth)) as fake:
        found = hypotheses_of(run, sae, wanted, SETTINGS, endpoint(fake, tmp_path, max_requests=5))
        assert sum(one.n_failed for one in found.found) == 50
        assert "10 of 12 requests about documents were not sent, since the budget was spent" in caplog.text
        caplog.clear()
        hypotheses_of(run, sae, wanted, SETTINGS, endpoint(fake, tmp_path))
    assert "budget" not in caplog.text


def test_the_page_names_its_weights_and_no_folder(run: CodedRun, sae: CodedSAE, wanted: Wanted, tmp_path: Path) -> None:
    with serving(FakeEndpoint(truth)) as fake:
        found = hypotheses_of(run, sae, wanted, SETTINGS, endpoint(fake, tmp_path))
    html = page(run, sae, found, rows_of(found), "x.csv")
    assert "one.gguf" in html
    assert "/home/ann" not in html
    assert sae.training.sha256.weights[:16] in html
    assert sae.codes.id[:16] in html


def test_requests_of_many_latents_are_in_memory_some_at_a_time(
    run: CodedRun, sae: CodedSAE, wanted: Wanted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand latents and documents would be 200,000 requests of 20 kB together."""
    sizes: list[int] = []
    with serving(FakeEndpoint(truth)) as fake:
        whole = hypotheses_of(run, sae, wanted, SETTINGS, endpoint(fake, tmp_path))
        monkeypatch.setattr(wording, "LATENTS_AT_ONCE", 2)
        asks = endpoint(fake, tmp_path)
        ask = asks.ask
        monkeypatch.setattr(asks, "ask", lambda some, *args: (sizes.append(len(some)), ask(some, *args))[1])
        assert hypotheses_of(run, sae, wanted, SETTINGS, asks) == whole
    assert sizes == [2, 1, 8, 4]


def test_a_copy_of_what_only_the_explanation_has_seen_does_not_test_it(
    tmp_path_factory: pytest.TempPathFactory, wanted: Wanted
) -> None:
    """Document 0 has no target, so it chooses nothing; words are of all documents of even number."""
    make(folder := tmp_path_factory.mktemp("copies"))
    run, path = opened(folder), wanted.targets
    assert path is not None
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith("0,")))
    token_N, document_N = run.text.token_id.copy(), run.text.document
    token_N[document_N == 1] = token_N[document_N == 0]
    run.text.__dict__["token_id"] = token_N
    found = hypotheses_of(run, run.saes[f"wide@{SITE}"], wanted, SETTINGS, None)
    assert (found.n_choosing, found.n_copies, found.n_testing) == (19, 1, 19)
