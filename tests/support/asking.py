"""Requests about nothing in particular, a parser of their answers, and an endpoint that never really pauses."""

import json
import threading
from pathlib import Path
from typing import Any

from strata_sae.pipeline.endpoint.answers import Answers
from strata_sae.pipeline.endpoint.client import Endpoint
from strata_sae.pipeline.endpoint.request import Answered, Message, Request, UnreadableError
from strata_sae.pipeline.endpoint.settings import EndpointSettings
from support.fake_endpoint import Chat, FakeEndpoint

N = 12


def requests(n: int = N, model: str = "a-model", purpose: str = "detection") -> list[Request]:
    """Request k asks about the text of number k."""
    return [Request(model, (Message("user", f"Which of these? text {k}"),), 100, purpose) for k in range(n)]


def truth(chat: Chat) -> list[bool]:
    """Three verdicts, the binary digits of the number in the text."""
    number = int(chat.messages[0].content.split()[-1])
    return [bool(number >> bit & 1) for bit in range(3)]


def verdicts(text: str) -> list[bool]:
    """Raises: UnreadableError for anything but an array of three."""
    try:
        values = json.loads(text)
    except ValueError:
        raise UnreadableError("it is no JSON array") from None
    if not isinstance(values, list) or len(values) != 3 or not set(values) <= {0, 1}:
        raise UnreadableError("it is no array of three times 0 or 1")
    return [bool(value) for value in values]


WANTED = [Answered([bool(k >> bit & 1) for bit in range(3)], None) for k in range(N)]
"""What an oracle answers to `requests()`."""


class Client:
    """An endpoint with its answers in a folder; everything that it says and every pause that it makes is kept."""

    def __init__(self, fake: FakeEndpoint | str, folder: Path, **settings: Any) -> None:
        url = fake if isinstance(fake, str) else fake.url
        self.lines: list[str] = []
        self.pauses: list[float] = []
        self.answers = Answers(folder)
        self.endpoint = Endpoint(
            EndpointSettings(**{"base_url": url, "timeout_seconds": 600.0, **settings}),
            self.answers,
            self.lines.append,
            pause=self._pause,
        )

    def _pause(self, stop: threading.Event, seconds: float) -> None:
        self.pauses.append(seconds)

    def ask(self, asked: list[Request] | None = None) -> list[Answered[list[bool]]]:
        """Asks, and closes the file of answers, as the end of a command does."""
        try:
            return self.endpoint.ask(requests() if asked is None else asked, verdicts, [])
        finally:
            self.answers.close()
