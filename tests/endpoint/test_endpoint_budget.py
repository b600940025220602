"""What one command may send and use: never passed, spent in the order of the requests, and told."""

from pathlib import Path

from strata_sae.pipeline.endpoint.request import Answered
from support.asking import WANTED, Client, N, requests, truth
from support.fake_endpoint import FakeEndpoint, serving


def test_a_budget_of_requests_is_not_passed_and_is_spent_in_order(tmp_path: Path) -> None:
    with serving(
        FakeEndpoint(truth, fault=lambda chat: "500" if chat.attempt == 1 and len(fake.chats) == 2 else None)
    ) as fake:
        client = Client(fake, tmp_path, max_requests=5, concurrency=1)
        assert client.ask() == [*WANTED[:4], *[Answered(None, "budget")] * (N - 4)]
        assert len(fake.chats) == 5
        again = Client(fake, tmp_path, max_requests=5, concurrency=1)
        assert again.ask() == [*WANTED[:9], *[Answered(None, "budget")] * (N - 9)]
    assert again.endpoint.spent.failures == {"budget": N - 9}
    assert fake.repeated == 0


def test_a_budget_of_tokens_counts_what_the_server_counted(tmp_path: Path) -> None:
    with serving(FakeEndpoint(truth)) as fake:
        size = len(requests()[0].messages[0].content) // 4 + 1 + len("[0, 0, 0]") // 4
        reserved = 100 + 7  # of a request that is under way: its limit, and its prompt as estimated
        client = Client(fake, tmp_path / "a", max_tokens=3 * size + reserved, concurrency=1)
        answers = client.ask()
        assert [answered.failure for answered in answers] == [None] * 4 + ["budget"] * (N - 4)
        assert client.endpoint.spent.n_tokens == 4 * size
        fake.usage = False  # then estimates count
        silent = Client(fake, tmp_path / "b", max_tokens=2 * reserved, concurrency=1)
        assert [answered.failure for answered in silent.ask()] == [None] * 2 + ["budget"] * (N - 2)


def test_a_budget_of_tokens_is_spent_whole_whatever_is_under_way(tmp_path: Path) -> None:
    """What requests under way may still take is waited for: it is nearly all of what they reserve, and comes back."""
    size, reserved = len(requests()[0].messages[0].content) // 4 + 1 + len("[0, 0, 0]") // 4, 107
    with serving(FakeEndpoint(truth)) as fake:
        client = Client(fake, tmp_path / "a", max_tokens=(N - 1) * size + reserved, concurrency=8)
        assert client.ask() == WANTED
        short = Client(fake, tmp_path / "b", max_tokens=5 * size + reserved, concurrency=8)
        answers = short.ask()
        # Threads come to the budget in the order of their requests, but for a moment between the two.
        assert [answer.failure for answer in answers].count(None) == 6
        assert all(answer in (wanted, Answered(None, "budget")) for answer, wanted in zip(answers, WANTED, strict=True))
        # A smaller request would still fit; latents are to be finished one after another.
        small = [request._replace(max_tokens=1) for request in requests(1)]
        assert short.ask(small) == [Answered(None, "budget")]
