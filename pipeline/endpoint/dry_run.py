"""What a command would ask, counted and not sent."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from strata_sae.pipeline.endpoint.answers import Answers, Kept
from strata_sae.pipeline.endpoint.reading import answer_in, estimated_tokens, repair_of, spoken
from strata_sae.pipeline.endpoint.request import Answered, Request, UnreadableError

T = TypeVar("T")


class Counted(NamedTuple):
    """Requests of one purpose to one model."""

    purpose: str
    model: str
    n_requests: int = 0
    n_kept: int = 0
    """Of these, answered from the disk."""
    prompt_tokens: int = 0
    """Of those that would be sent, estimated."""
    answer_tokens: int = 0
    """Of the same, at most."""


class DryRun:
    """Counts requests and answers them with what stands in for answers; implements `Asks`. Nothing leaves the process.

    Requests that are made of an earlier answer are of another length than they would be: an explanation's stand-in is
    not an explanation. Repairs and repetitions are not counted.
    """

    def __init__(self, answers: Answers | None = None) -> None:
        """answers: those that are kept; a request that one of them answers counts as kept, not as sent."""
        self._answers = answers
        self._seen: set[str] = set()
        self._counted: dict[tuple[str, str], Counted] = {}

    @property
    def counted(self) -> list[Counted]:
        """So far, in the order in which it was asked first."""
        return list(self._counted.values())

    def ask(self, requests: Sequence[Request], parse: Callable[[str], T], stand_in: T) -> list[Answered[T]]:
        """As `Asks.ask`."""
        return [self._answer(request, parse, stand_in) for request in requests]

    def _answer(self, request: Request, parse: Callable[[str], T], stand_in: T) -> Answered[T]:
        key, place = request.key(), (request.purpose, request.model)
        kept, failure = self._kept(key), ""
        if key not in self._seen:
            self._seen.add(key)
            so_far = self._counted.get(place, Counted(*place))
            is_sent = kept is None
            self._counted[place] = so_far._replace(
                n_requests=so_far.n_requests + 1,
                n_kept=so_far.n_kept + (not is_sent),
                prompt_tokens=so_far.prompt_tokens + estimated_tokens(request) * is_sent,
                answer_tokens=so_far.answer_tokens + request.max_tokens * is_sent,
            )
        for _ in range(2):  # the second time its repair, which is not counted
            if kept is None:
                return Answered(stand_in, None)
            if kept.ending == "refused":
                return Answered(None, "refused")
            try:
                return Answered(parse(answer_in(kept)), None)
            except UnreadableError as error:
                request = repair_of(request, spoken(kept.text), str(error))
                failure = "cut" if kept.ending == "cut" else "unreadable"
                kept = self._kept(request.key())
        return Answered(None, failure)

    def _kept(self, key: str) -> Kept | None:
        return None if self._answers is None else self._answers.get(key)
