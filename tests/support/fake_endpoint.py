"""A server that speaks OpenAI's chat completions, answers from a truth that it is given, and can be told to fail.

Its answers are a function of the request alone, and its failures of the request and of how often it came before:
neither the order of requests nor their number under way at once changes anything.
"""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from strata_sae.pipeline.endpoint.request import Message, Request

Judge = Literal["oracle", "inverted", "coin"]
Verdicts = Sequence[bool]
Fault = Literal[
    "garbage", "wrong length", "think", "refuse", "too long",
    "429", "500", "hang", "cut", "401", "400", "403", "404", "redirect", "no json", "no choices", "endless",
]  # fmt: skip
"""What becomes of one request. Those of the first line are answers, with status 200, and cost what answers cost."""
SECRET = "sk-fake-4f1d7a90c2"
"""A key that the server can be told to ask for."""


class Chat(NamedTuple):
    """A request as it arrived."""

    key: str
    """`Request.key()` of it."""
    attempt: int
    """How often the same request has arrived, this time included."""
    model: str
    messages: tuple[Message, ...]
    body: dict[str, Any]
    headers: dict[str, str]
    """By name in small letters."""
    path: str

    @property
    def text(self) -> str:
        """What all its messages say."""
        return "\n".join(message.content for message in self.messages)

    @property
    def is_repair(self) -> bool:
        """Whether it asks again because the first answer could not be read."""
        return len(self.messages) > 2 and self.messages[-2].role == "assistant"


class Table:
    """The truth by request: `know` it before it is asked. A repair request has the truth of what it repairs."""

    def __init__(self) -> None:
        self._known: dict[str, Verdicts | str] = {}

    def know(self, request: Request, truth: Verdicts | str) -> None:
        """truth: a verdict for each thing that is asked about; or the words of the answer."""
        self._known[_subject(request.model, request.messages)] = truth

    def __call__(self, chat: Chat) -> Verdicts | str:
        """The truth about a request. Raises: KeyError if it is not known."""
        return self._known[_subject(chat.model, chat.messages)]


def _subject(model: str, messages: Sequence[Message]) -> str:
    """The same for a request and for its repair: what was said before the first answer."""
    said = [list(message) for message in messages]
    is_repair = len(said) > 2 and messages[-2].role == "assistant"
    return json.dumps([model, said[:-2] if is_repair else said])


class FakeEndpoint(ThreadingHTTPServer):
    """Answers at `url`. truth: verdicts, which `judge` may turn around, or words, which are sent as they are."""

    daemon_threads = True

    def __init__(
        self,
        truth: Callable[[Chat], Verdicts | str],
        judge: Judge = "oracle",
        fault: Callable[[Chat], Fault | None] = lambda chat: None,
        spell: Callable[[Verdicts], str] = lambda verdicts: json.dumps([int(verdict) for verdict in verdicts]),
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.truth, self.judge, self.fault, self.spell = truth, judge, fault, spell
        self.root = f"http://127.0.0.1:{self.server_port}"
        self.url = f"{self.root}/v1"
        self.retry_after = "7"
        """The header of a 429; empty: none."""
        self.usage = True
        """Whether answers say how many tokens they took."""
        self.chats: list[Chat] = []
        """All that arrived."""
        self.answered: Counter[str] = Counter()
        """Requests that got an answer of status 200, whole, by key."""
        self.most_at_once = 0
        self.under_way = 0
        self.ended = threading.Event()
        self.holds: Callable[[Chat], bool] = lambda chat: False
        """Which requests get no answer until the server ends."""
        self.lock = threading.Lock()

    @property
    def repeated(self) -> int:
        """Requests that came again although they had been answered."""
        return sum(self.answered.values()) - len(self.answered)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no failure here."""

    def words(self, chat: Chat, fault: Fault | None) -> str:
        """The text of the answer."""
        truth = self.truth(chat)
        if isinstance(truth, str):
            plain, verdicts = truth, None
        else:
            verdicts = [_judged(self.judge, chat.key, n, bool(value)) for n, value in enumerate(truth)]
            plain = self.spell(verdicts)
        if fault == "garbage":
            return "I would rather talk about the weather."
        if fault == "wrong length":
            return plain if verdicts is None else self.spell([*verdicts, True])
        if fault == "think":
            return f"<think>\nIs it [0, 0]? No: {self.spell([True] * 40)}\n</think>\n\n{plain}"
        return plain


def _judged(judge: Judge, key: str, number: int, verdict: bool) -> bool:
    if judge == "coin":
        return hashlib.sha256(f"{key} {number}".encode()).digest()[0] % 2 == 1
    return verdict != (judge == "inverted")


class _Handler(BaseHTTPRequestHandler):
    server: FakeEndpoint
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        messages = tuple(Message(message["role"], message["content"]) for message in body["messages"])
        key = json.dumps(body)
        if {"max_tokens", "temperature", "seed"} <= body.keys():
            key = Request(body["model"], messages, body["max_tokens"], purpose="", seed=body["seed"]).key()
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.lock:
            attempt = 1 + sum(chat.key == key for chat in self.server.chats)
            chat = Chat(key, attempt, body["model"], messages, body, headers, urlsplit(self.path).path)
            self.server.chats.append(chat)
            self.server.under_way += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.under_way)
        try:
            self._answer(chat, "hang" if self.server.holds(chat) else self.server.fault(chat))
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    def _answer(self, chat: Chat, fault: Fault | None) -> None:
        if chat.path != "/v1/chat/completions":
            fault = "404"
        if fault == "hang":
            self.server.ended.wait()
            self.close_connection = True
        elif fault is not None and fault.isdigit():
            wait = {"Retry-After": self.server.retry_after} if fault == "429" and self.server.retry_after else {}
            # As careless servers do, it repeats what it was sent.
            said = f"no: {fault} for {chat.headers.get('authorization', 'nobody')}"
            self._send(int(fault), json.dumps({"error": {"message": said}}).encode(), wait)
        elif fault == "redirect":
            self._send(307, b"", {"Location": f"{self.server.root}/elsewhere"})
        elif fault == "no json":
            self._send(200, b"<html>Please log in</html>")
        elif fault == "no choices":
            self._send(200, b'{"error": {"message": "overloaded"}}')
        elif fault == "endless":
            self._send(200, b'"' + b"x" * (8 * 2**20))
        else:
            self._send_answer(chat, fault)

    def _send_answer(self, chat: Chat, fault: Fault | None) -> None:
        words = self.server.words(chat, fault)
        message = {"role": "assistant", "content": words}
        finish = "stop"
        if fault == "refuse":
            message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
        if fault == "too long":
            message["content"], finish = words[: len(words) // 2], "length"
        answer: dict[str, Any] = {"id": "x", "object": "chat.completion", "model": chat.model}
        answer["choices"] = [{"index": 0, "message": message, "finish_reason": finish}]
        if self.server.usage:
            answer["usage"] = {"prompt_tokens": len(chat.text) // 4, "completion_tokens": 1 + len(words) // 4}
        data = json.dumps(answer).encode()
        if fault == "cut":
            self._send(200, data[: len(data) // 2], {"Content-Length": str(len(data))})
            return
        with self.server.lock:  # before it is sent: a client that stops at the last byte has been answered
            self.server.answered[chat.key] += 1
        self._send(200, data)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = (headers or {}).get("Content-Length") is not None

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


def first(n: int, fault: Fault) -> Callable[[Chat], Fault | None]:
    """The first n times that each request comes it fails so; then it is answered."""
    return lambda chat: fault if chat.attempt <= n else None


def unless_repaired(fault: Fault) -> Callable[[Chat], Fault | None]:
    """Every first answer fails so; what is asked again is answered."""
    return lambda chat: None if chat.is_repair else fault


def always(fault: Fault) -> Callable[[Chat], Fault | None]:
    """Every request fails so."""
    return lambda chat: fault


@contextmanager
def serving(server: FakeEndpoint) -> Iterator[FakeEndpoint]:
    """The server, answering until the block ends."""
    running = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    running.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        running.join()
        server.server_close()
