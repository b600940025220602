"""Requests to a server of language models: kept answers first, then a few at once, and each answer kept as it comes."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from strata_sae.pipeline.endpoint.answers import Answers, Kept
from strata_sae.pipeline.endpoint.reading import answer_in, estimated_tokens, repair_of, spoken
from strata_sae.pipeline.endpoint.request import Answered, Request, UnreadableError
from strata_sae.pipeline.endpoint.sending import Pause, Sender
from strata_sae.pipeline.endpoint.settings import EndpointSettings
from strata_sae.pipeline.endpoint.together import together
from strata_sae.pipeline.progress import Progress

T = TypeVar("T")


class Spent(NamedTuple):
    """What was asked for so far."""

    n_requests: int
    """Sent, repetitions and repairs included."""
    n_repeated: int
    """Of these, again after a passing failure."""
    n_repairs: int
    """Of these, second requests after an answer that could not be read."""
    n_kept: int
    """Answered from the disk."""
    n_tokens: int
    """Of prompts and answers, by the server's count."""
    n_unanswered: int
    """Requests that failed for a passing reason: the same command asks them again."""
    failures: dict[str, int]
    """How many requests have no answer that could be read, by `Answered.failure`; those above are among them."""


class Endpoint:
    """A server of language models; implements `Asks`."""

    def __init__(
        self,
        settings: EndpointSettings,
        answers: Answers,
        shown: Callable[[str], None],
        *,
        show_progress: bool = False,
        pause: Pause | None = None,
    ) -> None:
        """shown: gets a line before text leaves this machine, and for peculiarities of the server.

        Raises: ConfigError if the settings name no server that could be one.
        """
        self._answers, self._shown, self._show_progress = answers, shown, show_progress
        self._n_threads = settings.concurrency
        self._sender = Sender(settings, shown, pause)
        self._models_that_answered: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def spent(self) -> Spent:
        """What was asked for so far."""
        counts, sender = self._counts, self._sender
        n_requests, n_tokens = sender.budget.n_requests, sender.budget.n_tokens
        repairs, kept, unanswered = (counts[name] for name in ("repairs", "kept", "unanswered"))
        return Spent(n_requests, sender.n_repeated, repairs, kept, n_tokens, unanswered, dict(self._failures))

    def ask(self, requests: Sequence[Request], parse: Callable[[str], T], stand_in: T) -> list[Answered[T]]:
        """As `Asks.ask`. Raises: EndpointError; OSError if an answer cannot be written."""
        distinct = {request.key(): request for request in requests}
        missing = [request for key, request in distinct.items() if self._answers.get(key) is None]
        self._tell(missing)
        first, others = self._first_of_each_model(distinct)
        answered: dict[str, Answered[T]] = {}
        progress = Progress("asking", len(distinct), "request", shown=self._show_progress and bool(missing))
        with progress, self._sender.opened() as stop:
            # The first of each model alone: a wrong key, or a wrong name, then costs one request.
            for keys, n_threads in ((first, 1), (others, self._n_threads)):
                found = together(
                    lambda key: self._answer(distinct[key], parse), keys, n_threads, stop, lambda: progress.advance(1)
                )
                answered |= zip(keys, found, strict=True)
        for each in answered.values():
            if each.failure is not None:
                self._failures[each.failure] += 1
        return [answered[request.key()] for request in requests]

    def _tell(self, missing: Sequence[Request]) -> None:
        address = self._sender.address
        if not missing or address.is_here:
            return
        n_characters = sum(len(message.content) for request in missing for message in request.messages)
        self._shown(
            f"text of the store goes to {address.host}{'' if address.is_encrypted else ', not encrypted'}: "
            f"{len(missing):,} requests, {n_characters:,} characters (about "
            f"{sum(map(estimated_tokens, missing)):,} tokens), and answers of at most "
            f"{sum(request.max_tokens for request in missing):,} tokens"
        )

    def _first_of_each_model(self, requests: dict[str, Request]) -> tuple[list[str], list[str]]:
        """The first request to each model that has not answered yet, and all others."""
        first: dict[str, str] = {}
        for key, request in requests.items():
            if request.model not in self._models_that_answered and self._answers.get(key) is None:
                first.setdefault(request.model, key)
        alone = set(first.values())
        return list(first.values()), [key for key in requests if key not in alone]

    def _answer(self, request: Request, parse: Callable[[str], T]) -> Answered[T]:
        failure = ""
        for is_repair in (False, True):
            kept = self._kept_or_sent(request, is_repair)
            if not isinstance(kept, Kept):
                return Answered(None, kept)
            if kept.ending == "refused":
                return Answered(None, "refused")
            try:
                return Answered(parse(answer_in(kept)), None)
            except UnreadableError as error:
                failure = "cut" if kept.ending == "cut" else "unreadable"
                request = repair_of(request, spoken(kept.text), str(error))
        return Answered(None, failure)

    def _kept_or_sent(self, request: Request, is_repair: bool) -> Kept | str:
        """An answer, or the failure."""
        key = request.key()
        kept = self._answers.get(key)
        with self._lock:
            self._counts["kept"] += kept is not None
        if kept is not None:
            return kept
        sent = self._sender.send(request)
        if isinstance(sent, Kept):
            self._answers.keep(key, sent)
        with self._lock:
            self._counts["repairs"] += is_repair and sent != "budget"
            if isinstance(sent, Kept):
                self._models_that_answered.add(request.model)
            elif sent != "budget":
                self._counts["unanswered"] += 1
        return sent
