"""Made-up windows of a latent, and an `Asks` that answers questions about them without a server."""

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from strata_sae.pipeline.endpoint.request import Answered, Request, UnreadableError
from strata_sae.pipeline.interpretation.excerpts import Excerpt, Kind, Material
from strata_sae.pipeline.interpretation.scorers import SCORERS, Item
from strata_sae.pipeline.interpretation.scorers.asking import N_SHOWN
from strata_sae.pipeline.interpretation.scorers.trials import Asked
from support.fake_endpoint import Table

T = TypeVar("T")
OWN = 7
"""The token on which the latent fires."""
WORDS = [f" w{number}" for number in range(40)]
N_TOKENS = 12


def excerpt(kind: Kind, number: int, texts: Sequence[str] = WORDS) -> Excerpt:
    """A window of a document of its own, or of one that two windows share for odd kinds; active ones hold OWN twice."""
    base = sum(kind.encode()) * 1000 + number
    ids = [(base + 3 * place) % 33 for place in range(N_TOKENS)]
    ids = [token_id + (token_id >= OWN) for token_id in ids]
    values = [0.0] * N_TOKENS
    if kind in ("top", "quantiles"):
        ids[4] = ids[8] = OWN
        values[4], values[8], values[9] = 4.0 + number / 8, 2.0, 0.1
    if kind == "near_miss":
        ids[8] = OWN
    return Excerpt(base, base, kind, [texts[token_id] for token_id in ids], values, ids)


def material(latent: int = 3, n: int = 14, texts: Sequence[str] = WORDS) -> Material:
    """n active windows of each kind, n silent ones of kind zero and half as many of the others."""
    active = [excerpt(kind, number, texts) for kind in ("top", "quantiles") for number in range(n)]
    halves = [excerpt(kind, number, texts) for kind in ("near_miss", "neighbour") for number in range(n // 2)]
    silent = [excerpt("zero", number, texts) for number in range(n)] + halves
    return Material(
        latent=latent,
        n_active_rows=100,
        density=0.01,
        window_density=0.2,
        largest=9.0,
        explain=[],
        active=active,
        silent=silent,
    )


def items(n: int = 3, label: Sequence[int] = (OWN,), n_windows: int = 14) -> list[Item]:
    """Latents with an explanation each."""
    return [
        Item(material(latent, n_windows), f"the word w{OWN}, latent {latent}", frozenset(label)) for latent in range(n)
    ]


def truths(asked: Asked) -> list[bool]:
    """The right answer: trials are shown again up to N_SHOWN."""
    return [asked.trials[place % len(asked.trials)].truth for place in range(N_SHOWN)]


def knows(table: Table, some: Sequence[Item], seed: int, model: str = "judge") -> None:
    """Tell a table all truths about the windows of some latents."""
    for item in some:
        for scorer in SCORERS.values():
            for asked in scorer.requests(model, item.explanation or "", item.material, seed):
                table.know(asked.request, truths(asked))


class Answering:
    """Answers a request by its text, and reads it as an endpoint does; what cannot be read is failed."""

    def __init__(self, words: Callable[[Request], str], budget: int | None = None) -> None:
        """budget: requests that are answered."""
        self.words, self.budget = words, budget
        self.calls: list[list[Request]] = []

    def ask(self, requests: Sequence[Request], parse: Callable[[str], T], stand_in: T) -> list[Answered[T]]:
        """As `Asks.ask`."""
        self.calls.append(list(requests))
        return [self._answered(request, parse) for request in requests]

    def _answered(self, request: Request, parse: Callable[[str], T]) -> Answered[T]:
        if self.budget is not None:
            if not self.budget:
                return Answered(None, "budget")
            self.budget -= 1
        try:
            return Answered(parse(self.words(request)), None)
        except UnreadableError:
            return Answered(None, "unreadable")


def coin(request: Request) -> str:
    """Numbers that have nothing to do with what is asked."""
    return str([byte % 2 for byte in hashlib.sha256(request.key().encode()).digest()[:N_SHOWN]])
