"""The parts of the client alone: thoughts, dialects of models, threads, a dry run."""

import threading
from pathlib import Path

import pytest

from strata_sae.pipeline.endpoint.answers import Answers, Kept
from strata_sae.pipeline.endpoint.dialects import Dialects
from strata_sae.pipeline.endpoint.dry_run import Counted, DryRun
from strata_sae.pipeline.endpoint.errors import RefusedError
from strata_sae.pipeline.endpoint.reading import repair_of, spoken
from strata_sae.pipeline.endpoint.request import Answered, Request
from strata_sae.pipeline.endpoint.together import together
from strata_sae.pipeline.endpoint.wire import seconds_of
from support.asking import WANTED, Client, N, requests, truth, verdicts
from support.fake_endpoint import FakeEndpoint, serving


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "[1]"),
        (" \n[1]\n", "[1]"),
        ("<think>no [0]</think>[1]", "[1]"),
        ("<think>\na\n</think>\n\n<THINK>b</THINK>[1]", "[1]"),
        ("the prompt began it [0]</think>[1]", "[1]"),
        ("[1]<think>and then", "[1]"),
        ("<think>never done [0]", ""),
        ("<think></think>", ""),
        ("a <thinking> b", "a <thinking> b"),
        ("", ""),
    ],
)
def test_what_is_said_is_what_was_not_thought(text: str, said: str) -> None:
    assert spoken(text) == said


def test_a_megabyte_of_beginnings_is_read_in_a_moment() -> None:
    """Against a pattern that goes back over all of it for each."""
    assert spoken("<think>" * 150_000) == ""
    assert spoken("</think>" * 150_000 + "[1]") == "[1]"
    assert spoken("<think" * 150_000) == "<think" * 150_000


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("3", 3.0), ("1.5", 1.5), ("-1", 0.0), ("nan", None), ("1e400", None), ("tomorrow", None),
     ("Sun, 06 Nov 1994 08:49:37 GMT", 27.0), ("Sun, 06 Nov 1994 08:49:00 GMT", 0.0),
     ("Sun, 06 Nov 99999999999 08:49:37 GMT", None)],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert seconds_of(header, 784111750.0) == seconds  # 08:49:10 on that day


# ---- Models that refuse a parameter


def refusal(parameter: str, code: str = "unsupported_parameter", status: int = 400) -> RefusedError:
    return RefusedError(status, "no", code, parameter)


def test_a_parameter_that_a_model_refuses_is_sent_in_its_other_form(tmp_path: Path) -> None:
    lines: list[str] = []
    dialects, (request,) = Dialects(lines.append), requests(1)
    plain = dialects.body(request)
    assert plain == request.body()
    assert dialects.learn(request.model, plain, refusal("max_tokens"))
    assert dialects.learn(request.model, dialects.body(request), refusal("temperature", "unsupported_value"))
    assert dialects.body(request) == {
        "model": "a-model",
        "messages": plain["messages"],
        "max_completion_tokens": 100,
        "seed": 0,
    }
    assert dialects.body(request._replace(model="another")) == request._replace(model="another").body()
    # One that was under way meanwhile is refused for what is known by now, and is sent again.
    assert dialects.learn(request.model, plain, refusal("max_tokens"))
    assert len(lines) == 2


@pytest.mark.parametrize(
    "error",
    [refusal("max_tokens", "invalid_value"), refusal("messages"), refusal("max_tokens", status=403), refusal("")],
)
def test_other_refusals_are_refusals(error: RefusedError) -> None:
    (request,) = requests(1)
    assert not Dialects(print).learn(request.model, request.body(), error)


def test_a_parameter_that_was_left_out_is_not_given_up_twice() -> None:
    dialects, (request,) = Dialects(lambda line: None), requests(1)
    assert dialects.learn(request.model, request.body(), refusal("seed"))
    assert not dialects.learn(request.model, dialects.body(request), refusal("seed"))


# ---- Threads


def test_results_are_in_order_and_work_begins_in_order() -> None:
    begun: list[int] = []
    done: list[None] = []

    def work(n: int) -> int:
        begun.append(n)
        return n * n

    assert together(work, range(50), 4, threading.Event(), lambda: done.append(None)) == [n * n for n in range(50)]
    assert sorted(begun) == list(range(50))
    assert len(done) == 50
    assert together(work, [], 4, threading.Event(), lambda: None) == []


def test_after_an_error_nothing_is_begun_and_what_is_under_way_ends() -> None:
    ended: list[int] = []
    failed = threading.Event()

    def work(n: int) -> int:
        if n == 1:
            failed.set()
            raise ValueError("one")
        if n == 0:
            failed.wait()
        ended.append(n)
        return n

    stop = threading.Event()
    with pytest.raises(ValueError, match="one"):
        together(work, range(100), 2, stop, lambda: None)
    assert stop.is_set()
    assert 0 in ended
    assert len(ended) < 50


def test_the_error_that_ends_everything_is_raised_and_not_one_that_it_causes() -> None:
    """The other thread has given up, as a sender does in a pause, before the first one's `stop.set()` returns."""
    waiting, others = threading.Event(), list[threading.Thread]()

    class Stop(threading.Event):
        def set(self) -> None:
            super().set()
            for other in others:
                if other is not threading.current_thread():
                    other.join()

    def work(n: int) -> None:
        if n == 0:
            waiting.wait()
            raise ValueError("the cause")
        others.append(threading.current_thread())
        waiting.set()
        stop.wait()
        raise RuntimeError("given up")

    stop = Stop()
    with pytest.raises(ValueError, match="the cause"):
        together(work, range(2), 2, stop, lambda: None)


# ---- A dry run


def test_a_dry_run_counts_by_purpose_and_model_and_answers_with_the_stand_in() -> None:
    dry = DryRun()
    explain = requests(3, purpose="explain")
    assert dry.ask(explain, verdicts, [True]) == [Answered([True], None)] * 3
    dry.ask(requests(2, model="b"), verdicts, [])
    dry.ask([*explain, *requests(2, model="b")], verdicts, [])  # again: counted once, as it is sent once
    n_characters = len("Which of these? text 0")
    tokens = -(-n_characters // 4)
    assert dry.counted == [
        Counted("explain", "a-model", 3, 0, 3 * tokens, 300),
        Counted("detection", "b", 2, 0, 2 * tokens, 200),
    ]


def test_a_dry_run_takes_kept_answers_and_sends_and_writes_nothing(tmp_path: Path) -> None:
    with serving(FakeEndpoint(truth)) as fake:
        Client(fake, tmp_path).ask(requests(5))
        n_chats, files = len(fake.chats), sorted(tmp_path.iterdir())
        dry = DryRun(Answers(tmp_path))
        answers = dry.ask(requests(), verdicts, [True, True, True])
        assert len(fake.chats) == n_chats
    assert answers == [*WANTED[:5], *[Answered([True] * 3, None)] * (N - 5)]
    (counted,) = dry.counted
    assert (counted.n_requests, counted.n_kept, counted.answer_tokens) == (N, 5, 100 * (N - 5))
    assert sorted(tmp_path.iterdir()) == files


def test_a_dry_run_finds_what_failed_for_good(tmp_path: Path) -> None:
    """Refused, and unreadable with its repair: nothing is asked, so nothing may be made of a stand-in."""
    unreadable, refused, half = requests(3)
    answers = Answers(tmp_path)
    for request in (unreadable, half):
        answers.keep(request.key(), Kept("rubbish", "whole", 0, 0, 0))
    answers.keep(refused.key(), Kept("", "refused", 0, 0, 0))
    repair = repair_of(unreadable, "rubbish", "it is no JSON array")
    answers.keep(repair.key(), Kept("rubbish again", "whole", 0, 0, 0))
    answers.close()
    assert DryRun(Answers(tmp_path)).ask([unreadable, refused, half], verdicts, [True]) == [
        Answered(None, "unreadable"),
        Answered(None, "refused"),
        Answered([True], None),  # its repair is still to be asked
    ]


def test_the_purpose_is_no_part_of_what_is_asked() -> None:
    asked = requests(1)[0]
    assert asked._replace(purpose="other").key() == asked.key()
    others: list[Request] = [
        asked._replace(model="b"),
        asked._replace(max_tokens=99),
        asked._replace(seed=1),
        asked._replace(messages=()),
    ]
    assert len({request.key() for request in [asked, *others]}) == 5
