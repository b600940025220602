"""Windows whose truth is known, to be put to a model some at a time."""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from strata_sae.pipeline.endpoint.request import Request
from strata_sae.pipeline.interpretation.excerpts import Excerpt, Kind, Material
from strata_sae.pipeline.interpretation.scorers.asking import N_SHOWN, numbered, quoted, read_numbers


class Trial(NamedTuple):
    """A text that is judged: of its excerpt the tokens are shown, and nothing else."""

    excerpt: Excerpt
    marked: frozenset[int]
    """Places of tokens that are shown between marks; empty: nothing is marked."""
    truth: bool

    @property
    def asked_ids(self) -> list[int]:
        """Ids of the tokens that the token label is asked about: the marked ones, else all."""
        ids = self.excerpt.token_ids
        return [ids[place] for place in sorted(self.marked)] if self.marked else ids


class Asked(NamedTuple):
    """A request, and what it asks about."""

    request: Request
    trials: list[Trial]
    """At most N_SHOWN."""


def question_of(description: str, texts: Sequence[str]) -> str:
    """A description and the texts that are judged by it."""
    return f"Description: {quoted(description)}\n\nTexts:\n{numbered(texts)}"


def read_answer(text: str) -> list[int]:
    """N_SHOWN numbers, 1 or 0. Raises: UnreadableError."""
    return read_numbers(text, N_SHOWN, (0, 1))


def silent_windows(material: Material, n: int) -> list[Excerpt]:
    """At most n: half of them drawn at random, a quarter near misses, a quarter neighbours, if there are such."""
    kinds: dict[Kind, list[Excerpt]] = {
        kind: [excerpt for excerpt in material.silent if excerpt.kind == kind]
        for kind in ("near_miss", "neighbour", "zero")
    }
    hard = kinds["near_miss"][: n // 4] + kinds["neighbour"][: n // 4]
    drawn = kinds["zero"][: n - len(hard)]
    more = kinds["near_miss"][n // 4 :] + kinds["neighbour"][n // 4 :]
    return drawn + hard + more[: n - len(hard) - len(drawn)]


def plain(excerpts: Iterable[Excerpt]) -> list[Trial]:
    """Windows as they stand: true where the latent fires."""
    return [Trial(excerpt, frozenset(), excerpt.is_active) for excerpt in excerpts]


def plain_texts(trials: Sequence[Trial]) -> list[str]:
    """Texts without marks."""
    return [trial.excerpt.text for trial in trials]


def holds_any(trial: Trial, label: Collection[int]) -> bool:
    """Whether a token of the label stands in the window."""
    return any(token_id in label for token_id in trial.asked_ids)
