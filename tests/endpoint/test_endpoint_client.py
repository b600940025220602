"""The client against the fake endpoint: every answer once, in order, whatever fails on the way."""

import threading
from pathlib import Path

import pytest

from strata_sae.pipeline.endpoint.answers import Answers
from strata_sae.pipeline.endpoint.dry_run import DryRun
from strata_sae.pipeline.endpoint.errors import EndpointError
from strata_sae.pipeline.endpoint.request import Answered
from strata_sae.pipeline.endpoint.sending import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS
from strata_sae.pipeline.interpretation.explaining import read_explanation
from support.asking import WANTED, Client, N, requests, truth
from support.fake_endpoint import FakeEndpoint, Fault, always, first, serving, unless_repaired


def test_answers_come_in_the_order_of_the_requests(tmp_path: Path) -> None:
    with serving(FakeEndpoint(truth)) as fake:
        client = Client(fake, tmp_path)
        assert client.ask() == WANTED
        assert client.ask(requests()[::-1]) == WANTED[::-1]
    assert len(fake.chats) == N
    assert client.endpoint.spent[:4] == (N, 0, 0, N)


@pytest.mark.parametrize("judge", ["inverted", "coin"])
def test_control_another_judge_gives_other_answers(tmp_path: Path, judge: str) -> None:
    with serving(FakeEndpoint(truth, judge)) as fake:  # type: ignore[arg-type]
        answers = Client(fake, tmp_path).ask()
    wrong = [[not verdict for verdict in answered.value or []] for answered in WANTED]
    right = [answered.value for answered in WANTED]
    found = [answered.value for answered in answers]
    assert (found == wrong) if judge == "inverted" else (found not in (right, wrong))


def test_equal_requests_are_sent_once(tmp_path: Path) -> None:
    with serving(FakeEndpoint(truth)) as fake:
        assert Client(fake, tmp_path).ask([*requests(), *requests()]) == [*WANTED, *WANTED]
    assert len(fake.chats) == N


def test_a_second_run_sends_nothing(tmp_path: Path) -> None:
    with serving(FakeEndpoint(truth)) as fake:
        Client(fake, tmp_path).ask()
    # The server is gone, and so is the key: neither is needed.
    client = Client(fake.url, tmp_path, key_env="NO_SUCH_KEY")
    assert client.ask() == WANTED
    assert client.endpoint.spent[:4] == (0, 0, 0, N)
    assert client.lines == []


@pytest.mark.parametrize("fault", ["429", "500", "cut", "no json", "no choices"])
def test_a_passing_failure_is_repeated(tmp_path: Path, fault: Fault) -> None:
    with serving(FakeEndpoint(truth, fault=first(2, fault))) as fake:
        client = Client(fake, tmp_path)
        assert client.ask() == WANTED
    assert len(fake.chats) == 3 * N
    assert client.endpoint.spent[:2] == (3 * N, 2 * N)
    assert fake.repeated == 0


@pytest.mark.parametrize(
    ("fault", "failure"), [("429", "server"), ("500", "server"), ("cut", "cut"), ("no json", "cut")]
)
def test_a_failure_that_stays_is_counted_and_asked_for_again_by_the_next_run(
    tmp_path: Path, fault: Fault, failure: str
) -> None:
    failing = {requests()[k].key() for k in (3, 7)}
    with serving(FakeEndpoint(truth, fault=lambda chat: fault if chat.key in failing else None)) as fake:
        client = Client(fake, tmp_path, retries=2)
        answers = client.ask()
        assert answers == [Answered(None, failure) if k in (3, 7) else WANTED[k] for k in range(N)]
        assert client.endpoint.spent.failures == {failure: 2}
        assert len(fake.chats) == N + 2 * 2
        fake.fault = lambda chat: None
        assert Client(fake, tmp_path).ask() == WANTED
        assert len(fake.chats) == N + 2 * 2 + 2
    assert fake.repeated == 0


def test_a_server_that_hangs_is_given_up(tmp_path: Path) -> None:
    """The limit is of the clock, but what comes of it is not: the request that hangs never gets an answer."""
    with serving(FakeEndpoint(truth, fault=always("hang"))) as fake:
        client = Client(fake, tmp_path, retries=1, timeout_seconds=0.05)
        assert client.ask(requests(1)) == [Answered(None, "timeout")]
    assert len(fake.chats) <= 2  # one that was given up while it connected has not arrived
    assert client.endpoint.spent[:2] == (2, 1)


def test_what_cannot_be_read_is_asked_for_once_more(tmp_path: Path) -> None:
    with serving(FakeEndpoint(truth, fault=unless_repaired("garbage"))) as fake:
        client = Client(fake, tmp_path)
        assert client.ask() == WANTED
    assert client.endpoint.spent[:3] == (2 * N, 0, N)
    repair = next(chat for chat in fake.chats if chat.is_repair)
    assert [message.role for message in repair.messages] == ["user", "assistant", "user"]
    assert repair.messages[1].content == "I would rather talk about the weather."
    assert "it is no JSON array" in repair.messages[2].content


@pytest.mark.parametrize(
    ("fault", "failure", "n_sent"),
    [("garbage", "unreadable", 2), ("wrong length", "unreadable", 2), ("too long", "cut", 2), ("refuse", "refused", 1)],
)
def test_an_answer_that_stays_unreadable_counts_as_failed_and_is_not_paid_for_again(
    tmp_path: Path, fault: Fault, failure: str, n_sent: int
) -> None:
    with serving(FakeEndpoint(truth, fault=always(fault))) as fake:
        for _ in range(2):
            client = Client(fake, tmp_path)
            assert client.ask() == [Answered(None, failure)] * N
            assert client.endpoint.spent.failures == {failure: N}
            assert len(fake.chats) == n_sent * N
    assert fake.repeated == 0


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("EXPLANATION: the end of a", Answered(None, "cut")),
        ("EXPLANATION: the end of a line\nand then", Answered("the end of a line", None)),
    ],
)
def test_a_line_that_the_limit_of_tokens_ended_is_no_answer(tmp_path: Path, words: str, wanted: Answered[str]) -> None:
    asked = requests(1)
    with serving(FakeEndpoint(lambda chat: words + "." * len(words), fault=always("too long"))) as fake:
        client = Client(fake, tmp_path)
        assert client.endpoint.ask(asked, read_explanation, "") == [wanted]
    client.answers.close()
    assert DryRun(Answers(tmp_path)).ask(asked, read_explanation, "?") == [wanted]


def test_a_repair_that_no_budget_lets_through_is_not_counted_as_sent(tmp_path: Path) -> None:
    with serving(FakeEndpoint(truth, fault=always("garbage"))) as fake:
        client = Client(fake, tmp_path, max_requests=1)
        assert client.ask(requests(1)) == [Answered(None, "budget")]
    assert client.endpoint.spent[:3] == (1, 0, 0)


def test_thoughts_are_no_part_of_an_answer(tmp_path: Path) -> None:
    with serving(FakeEndpoint(truth, fault=always("think"))) as fake:
        client = Client(fake, tmp_path)
        assert client.ask() == WANTED
    assert client.endpoint.spent.n_repairs == 0


def test_requests_are_under_way_at_once_and_no_more_than_the_settings_say(tmp_path: Path) -> None:
    """Each of three waits until three are there; the first of all goes alone, in case the key is wrong."""
    together = threading.Barrier(3)

    def in_threes(chat: object) -> list[bool]:
        if len(fake.chats) > 1:
            together.wait()
        return [True] * 3

    with serving(FakeEndpoint(in_threes)) as fake:
        Client(fake, tmp_path, concurrency=3).ask(requests(1 + 3 * 3))
    assert fake.most_at_once == 3


@pytest.mark.parametrize("status", ["400", "401", "403", "404", "redirect", "endless"])
def test_what_no_repetition_mends_ends_everything_after_one_request(tmp_path: Path, status: Fault) -> None:
    with serving(FakeEndpoint(truth, fault=always(status))) as fake:
        client = Client(fake, tmp_path)
        with pytest.raises(EndpointError) as raised:
            client.ask()
    assert len(fake.chats) == 1
    assert "\n" not in str(raised.value)
    assert client.pauses == []


def test_an_error_in_the_middle_ends_everything_and_answers_that_came_are_kept(tmp_path: Path) -> None:
    failing = requests()[5].key()
    with serving(FakeEndpoint(truth, fault=lambda chat: "403" if chat.key == failing else None)) as fake:
        with pytest.raises(EndpointError, match="HTTP 403"):
            Client(fake, tmp_path, concurrency=2).ask()
        n_answered = len(fake.chats) - 1
        assert 5 <= n_answered <= 7
        fake.fault = lambda chat: None
        assert Client(fake, tmp_path).ask() == WANTED
    assert fake.repeated == 0
    assert len(fake.chats) == 1 + N


def test_a_server_that_always_fails_is_given_up_as_a_whole(tmp_path: Path) -> None:
    with serving(FakeEndpoint(truth, fault=always("500"))) as fake:
        client = Client(fake, tmp_path, retries=1, concurrency=1)
        with pytest.raises(EndpointError, match=r"the last 20 requests failed, each 2 times.*HTTP 500"):
            client.ask(requests(100))
    assert len(fake.chats) == 40


def test_nobody_at_the_address_is_told_at_once(tmp_path: Path) -> None:
    with serving(FakeEndpoint(truth)) as gone:
        pass
    client = Client(gone.url, tmp_path)
    with pytest.raises(EndpointError, match=r"no answer from 127\.0\.0\.1:\d+ .*start the server"):
        client.ask()
    assert client.pauses == []


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "xn--a"])
def test_a_host_that_can_have_no_address_is_told_in_a_line(tmp_path: Path, host: str) -> None:
    with pytest.raises(EndpointError, match=r"interpretation\.base_url: .* is the name of no host") as raised:
        Client(f"http://{host}/v1", tmp_path).ask()
    assert "\n" not in str(raised.value)


def test_a_pause_is_random_up_to_a_bound_that_doubles_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    with serving(FakeEndpoint(truth, fault=first(9, "500"))) as fake:
        client = Client(fake, tmp_path, retries=9)
        client.ask(requests(1))
    assert client.pauses == [min(FIRST_PAUSE_SECONDS * 2**n, LONGEST_PAUSE_SECONDS) for n in range(9)]
    assert client.pauses[-1] == LONGEST_PAUSE_SECONDS


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0", 0.0), ("7200", 600.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("soon", 0.0), ("inf", 0.0),
     ("", 0.0), ("-5", 0.0)],
)  # fmt: skip
def test_the_server_says_how_long_to_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str, seconds: float
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.25)
    with serving(FakeEndpoint(truth, fault=first(1, "429"))) as fake:
        fake.retry_after = header
        client = Client(fake, tmp_path)
        assert client.ask(requests(1)) == WANTED[:1]
    assert client.pauses == [seconds + 0.25]
    assert any("asks for a pause of 10 min" in line for line in client.lines) == (seconds == 600.0)


def test_a_full_disk_ends_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FakeEndpoint(truth)) as fake:
        client = Client(fake, tmp_path)

        def full(key: str, kept: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(client.answers, "keep", full)
        with pytest.raises(OSError, match="No space"):
            client.ask()
    assert len(fake.chats) == 1


def test_an_interrupt_is_not_held_up_by_a_server_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FakeEndpoint(truth)) as fake:
        fake.holds = lambda chat: len(fake.chats) > 1
        client = Client(fake, tmp_path, concurrency=2)

        def interrupt(n: int) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("strata_sae.pipeline.progress.Progress.advance", lambda self, n: interrupt(n))
        with pytest.raises(KeyboardInterrupt):
            client.ask()
        assert client.answers.get(requests()[0].key()) is not None
