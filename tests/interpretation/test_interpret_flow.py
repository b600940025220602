"""Latents explained and scored through a fake endpoint: right judges score 1, wrong ones 0, and nothing is paid twice."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from strata_sae.pipeline.endpoint.dry_run import DryRun
from strata_sae.pipeline.endpoint.request import Answered, Asks, Request
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.interpretation import interpret as interpreting
from strata_sae.pipeline.interpretation.choosing import labelled
from strata_sae.pipeline.interpretation.excerpts import N_TEST
from strata_sae.pipeline.interpretation.interpret import interpret
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.pipeline.runs.interpretation_records import InterpretationRecord
from strata_sae.pipeline.runs.record_files import read_record
from support.coded_run import SITE
from support.fake_endpoint import Chat, Fault, FakeEndpoint, Judge, Table, serving
from support.interpreting import endpoint_of, make, settings, truth_about, words_of

T = TypeVar("T")
SCORES = ("detection", "fuzzing", "fidelity")


@pytest.fixture(scope="module", autouse=True)
def few_windows() -> Iterator[None]:
    """A fifth of the windows that a real test has: 14 requests a latent."""
    with pytest.MonkeyPatch.context() as patch:
        for kind, n in N_TEST.items():
            patch.setitem(N_TEST, kind, n // 5)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> CodedRun:
    return make(tmp_path_factory.mktemp("interpreted"))


@pytest.fixture(scope="module")
def sae(run: CodedRun) -> CodedSAE:
    labelled(run, one := run.saes[f"topk@{SITE}"], write=True)
    return one


@pytest.fixture(scope="module")
def truth(run: CodedRun, sae: CodedSAE) -> Table:
    return truth_about(run, sae, settings())


@pytest.fixture(autouse=True)
def no_files(sae: CodedSAE) -> Iterator[None]:
    yield
    sae.folder.interpretation.unlink(missing_ok=True)
    sae.folder.interpretations.unlink(missing_ok=True)


def interpreted(
    run: CodedRun, sae: CodedSAE, server: FakeEndpoint, answers: Path, **changes: object
) -> list[InterpretationRecord]:
    with endpoint_of(server, asked := settings(**changes), answers) as endpoint:
        return interpret(run, [sae], asked, endpoint)


def files_of(sae: CodedSAE) -> tuple[bytes, bytes]:
    return sae.folder.interpretation.read_bytes(), sae.folder.interpretations.read_bytes()


@pytest.mark.parametrize(("judge", "value"), [("oracle", 1.0), ("inverted", 0.0)])
def test_right_answers_score_one_and_wrong_ones_zero(
    run: CodedRun, sae: CodedSAE, truth: Table, tmp_path: Path, judge: Judge, value: float
) -> None:
    with serving(FakeEndpoint(truth, judge)) as server:
        (record,) = interpreted(run, sae, server, tmp_path)
    assert read_record(sae.folder.interpretation, InterpretationRecord).record == record
    assert [one.explanation for one in record.latents] == [words_of(one.latent) for one in record.latents]
    latents = [one.latent for one in record.latents]
    assert (len(latents), latents) == (6, sorted(latents))
    for one in record.latents:
        assert (one.rating, one.failure, one.rating_failure) == (4, None, None)
        for score in SCORES:
            scored = one.scores[score]
            assert (scored.balanced_accuracy, scored.recall, scored.n_failed) == (value, value, 0)
            assert sum(kind.n_windows for kind in scored.kinds.values()) == 20
    assert record.metrics["detection_balanced_accuracy"].value == value
    assert (record.metrics["explained"].value, record.metrics["rating_high"].value) == (1.0, 1.0)
    assert "Explained by explainer, scored by scorer." in record.metrics["explained"].definition


def test_a_coin_is_at_chance(run: CodedRun, sae: CodedSAE, truth: Table, tmp_path: Path) -> None:
    with serving(FakeEndpoint(truth, "coin")) as server:
        (record,) = interpreted(run, sae, server, tmp_path)
    for score in SCORES:
        found = [one.scores[score] for one in record.latents]
        inside = [one.interval.low <= 0.5 <= one.interval.high for one in found if one.interval]
        assert len(inside) == 6
        assert sum(inside) >= 5
        assert abs((record.metrics[f"{score}_balanced_accuracy"].value or 0) - 0.5) < 0.2


def test_nothing_depends_on_how_many_are_asked_at_once(
    run: CodedRun, sae: CodedSAE, truth: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name, concurrency, at_once in (("one", 1, 64), ("eight", 8, 64), ("blocks", 8, 4)):
        monkeypatch.setattr(interpreting, "LATENTS_AT_ONCE", at_once)
        with serving(FakeEndpoint(truth)) as server:
            interpreted(run, sae, server, tmp_path / name, concurrency=concurrency)
        found.append((files_of(sae), {chat.key for chat in server.chats}))
    assert found[0] == found[1] == found[2]


class Killed(Exception):
    """The process ends here."""


class Stopping:
    """Asks another for the first n answers, and then ends the process."""

    def __init__(self, asks: Asks, n: int) -> None:
        self._asks, self._left = asks, n

    def ask(self, requests: Sequence[Request], parse: Callable[[str], T], stand_in: T) -> list[Answered[T]]:
        some = requests[: self._left]
        self._left -= len(some)
        answers = self._asks.ask(some, parse, stand_in)
        if len(some) < len(requests):
            raise Killed
        return answers


@pytest.mark.parametrize("n_answered", [0, 1, 31])
def test_a_run_that_was_killed_asks_for_nothing_twice(
    run: CodedRun, sae: CodedSAE, truth: Table, tmp_path: Path, n_answered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that were answered before a kill are not sent again, and the files are those of a run without one."""
    with serving(FakeEndpoint(truth)) as server:
        interpreted(run, sae, server, tmp_path / "whole")
        expected, n_requests = files_of(sae), len(server.chats)
    sae.folder.interpretation.unlink()
    sae.folder.interpretations.unlink()
    monkeypatch.setattr(interpreting, "LATENTS_AT_ONCE", 2)
    with serving(FakeEndpoint(truth)) as server:
        with endpoint_of(server, settings(), tmp_path / "killed") as endpoint:
            with pytest.raises(Killed):
                interpret(run, [sae], settings(), Stopping(endpoint, n_answered))
        assert not sae.folder.interpretation.exists()
        assert len(server.chats) == n_answered
        interpreted(run, sae, server, tmp_path / "killed")
        assert (server.repeated, len(server.chats)) == (0, n_requests)
        assert files_of(sae) == expected
        interpreted(run, sae, server, tmp_path / "killed")
        assert len(server.chats) == n_requests  # a third run sends nothing
    assert files_of(sae) == expected


def test_what_a_budget_leaves_unfinished_is_left_out_and_said(
    run: CodedRun, sae: CodedSAE, truth: Table, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(interpreting, "LATENTS_AT_ONCE", 2)
    with serving(FakeEndpoint(truth)) as server:
        (whole,) = interpreted(run, sae, server, tmp_path / "whole")
        n_requests = len(server.chats)
    with serving(FakeEndpoint(truth)) as server:
        (part,) = interpreted(run, sae, server, tmp_path / "part", max_requests=n_requests // 2)
        assert len(server.chats) == n_requests // 2
        assert 0 < len(part.latents) < 6
        assert all(one in whole.latents for one in part.latents)
        assert f"{6 - len(part.latents)} of 6 latents are not finished, since the budget was spent" in caplog.text
        (again,) = interpreted(run, sae, server, tmp_path / "part")
        assert (server.repeated, again) == (0, whole)
        sae.folder.interpretation.unlink()
        assert interpreted(run, sae, server, tmp_path / "none", max_requests=1) == []
        assert not sae.folder.interpretation.exists()


def test_unreadable_explanations_are_counted(run: CodedRun, sae: CodedSAE, truth: Table, tmp_path: Path) -> None:
    def fault(chat: Chat) -> Fault | None:
        return "garbage" if chat.model == "explainer" else None

    with serving(FakeEndpoint(truth, fault=fault)) as server:
        (record,) = interpreted(run, sae, server, tmp_path)
    assert {(one.explanation, one.failure, one.rating) for one in record.latents} == {(None, "unreadable", 4)}
    assert all(one.scores == {} for one in record.latents)
    assert (record.metrics["explained"].value, record.metrics["detection_balanced_accuracy"].value) == (0.0, None)


def test_unreadable_judgements_are_counted(run: CodedRun, sae: CodedSAE, truth: Table, tmp_path: Path) -> None:
    def fault(chat: Chat) -> Fault | None:
        return "wrong length" if "[1, 0" in chat.text else None

    with serving(FakeEndpoint(truth, fault=fault)) as server:
        (record,) = interpreted(run, sae, server, tmp_path, scores=["detection"])
    assert record.metrics["detection_failed"].value == 1.0
    assert record.metrics["detection_balanced_accuracy"].value is None
    assert {"fidelity_failed", "rating_failed"}.isdisjoint(record.metrics)


def test_a_dry_run_counts_and_writes_nothing(run: CodedRun, sae: CodedSAE, truth: Table, tmp_path: Path) -> None:
    with serving(FakeEndpoint(truth)) as server:
        interpreted(run, sae, server, tmp_path)
        n_requests = len(server.chats)
    sae.folder.interpretation.unlink()
    sae.folder.interpretations.unlink()
    before = {path: path.read_bytes() for path in run.folder.path.rglob("*") if path.is_file()}
    dry_run = DryRun()
    interpret(run, [sae], settings(), dry_run, write=False)
    assert {path: path.read_bytes() for path in run.folder.path.rglob("*") if path.is_file()} == before
    counted = {one.purpose: one.n_requests for one in dry_run.counted}
    assert sum(counted.values()) == n_requests
    assert (counted["explain"], counted["monosemanticity"]) == (6, 6)


def test_the_table_has_the_columns_of_the_seed_and_ours(
    run: CodedRun, sae: CodedSAE, truth: Table, tmp_path: Path
) -> None:
    with serving(FakeEndpoint(truth)) as server:
        (record,) = interpreted(run, sae, server, tmp_path)
    rows = list(csv.DictReader(io.StringIO(sae.folder.interpretations.read_text(encoding="utf-8"))))
    assert list(rows[0])[:6] == [
        "neuron_idx", "interpretation", "top_example_1", "top_example_2", "top_example_3", "f1_fidelity_score",
    ]  # fmt: skip
    for row, one in zip(rows, record.latents, strict=True):
        assert (row["neuron_idx"], row["interpretation"]) == (str(one.latent), one.explanation)
        assert row["f1_fidelity_score"] == row["fidelity_f1"] == "1.0"
        assert float(row["detection_interval_low"]) < 1.0
        assert row["detection_balanced_accuracy"] == "1.0"
        assert float(row["density"]) == round(one.n_active_rows / int(sae.kept().sum()), 6)
        assert len({row[f"top_example_{number}"] for number in (1, 2, 3)}) == 3


def test_models_must_be_named(run: CodedRun, sae: CodedSAE) -> None:
    for missing in ("explainer", "scorer"):
        with pytest.raises(ConfigError, match=rf"interpretation\.{missing}: names no model"):
            interpret(run, [sae], settings(**{missing: None}), DryRun())


def test_one_model_that_explains_and_scores_is_said(run: CodedRun, sae: CodedSAE, tmp_path: Path) -> None:
    dry_run = DryRun()
    (record,) = interpret(
        run, [sae], settings(explainer="/srv/models/x.gguf", scorer="/srv/models/x.gguf"), dry_run, write=False
    )
    assert "agrees with itself" in record.metrics["explained"].definition
    assert "/srv" not in record.model_dump_json()
    assert {one.model for one in dry_run.counted} == {"/srv/models/x.gguf"}
