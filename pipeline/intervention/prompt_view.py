"""What is told of a text in the model: numbers and words for the terminal and for the page."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.queries.asked_model import Active, Edit, Prompted

MOST_MARKED = 10
"""Latents of an SAE that are marked in the text where none is named: those with the largest values in it."""
STRONGEST = 3
"""Latents that are named at each token (count)."""

WordsOf = Callable[[str, int], str]
"""SAE and latent -> what the latent means, in words; empty where nothing is known."""


class Marked(NamedTuple):
    """A latent on each of S tokens."""

    latent: int
    words: str
    values: list[float]
    edited: list[float] | None
    """With the edits; None: they do not reach its SAE, or there are none."""
    largest: float
    """With edits or without, on tokens that are no special ones: their rows are often a hundred times as long."""


class OfSAE(NamedTuple):
    """What one SAE sees in the text."""

    name: str
    n_active: list[int]
    """Of each token (count)."""
    strongest: list[list[tuple[int, float]]]
    """Of each token, the latents with the largest values."""
    marked: list[Marked]


class View(NamedTuple):
    """A text in the model, as it is told."""

    texts: list[str]
    is_special: list[bool]
    following: list[tuple[str, float]]
    """The likeliest next token after each, and its probability."""
    edited_following: list[tuple[str, float]] | None
    kl: list[float] | None
    saes: list[OfSAE]
    edits: list[str]
    """Each in a line."""
    continuations: list[tuple[str, str]]
    """How it was made, and the text that follows."""


def view(
    prompted: Prompted,
    latents: Sequence[int],
    edits: Sequence[Edit],
    continuations: Sequence[tuple[str, str]],
    words_of: WordsOf,
) -> View:
    """latents: those that are marked, of every SAE; none: the strongest and the edited ones."""
    edited = prompted.edited
    saes = [
        _of_sae(name, prompted, latents or [edit.latent for edit in edits if edit.sae == name], bool(latents), words_of)
        for name in prompted.clean.active
    ]
    return View(
        prompted.texts,
        prompted.is_special,
        _likeliest(prompted.clean.following.texts, prompted.clean.following.probabilities),
        None if edited is None else _likeliest(edited.following.texts, edited.following.probabilities),
        None if prompted.kl_S is None else prompted.kl_S.tolist(),
        saes,
        [spelled(edit) for edit in edits],
        list(continuations),
    )


def spelled(edit: Edit) -> str:
    """An edit in a line."""
    done = {"ablate": "set to 0", "clamp": f"set to {edit.amount:g}", "steer": f"{edit.amount:+g} of its direction"}
    return f"latent {edit.latent} of {edit.sae}: {done[edit.kind]}"


def _of_sae(name: str, prompted: Prompted, latents: Sequence[int], only: bool, words_of: WordsOf) -> OfSAE:
    active = prompted.clean.active[name]
    changed = None if prompted.edited is None else prompted.edited.active.get(name)
    n_tokens = len(prompted.texts)
    marked = [*latents] if only else list(dict.fromkeys([*latents, *_largest(active, prompted.is_special)]))
    return OfSAE(
        name,
        np.diff(active.offset).tolist(),
        [_strongest(active, place) for place in range(n_tokens)],
        [_marked(latent, words_of(name, latent), active, changed, prompted.is_special) for latent in marked],
    )


def _marked(latent: int, words: str, active: Active, changed: Active | None, is_special: Sequence[bool]) -> Marked:
    values = active.values_S(latent).tolist()
    edited = None if changed is None else changed.values_S(latent).tolist()
    of_ordinary = [
        value for of in (values, edited or []) for value, special in zip(of, is_special, strict=False) if not special
    ]
    return Marked(latent, words, values, edited, max(of_ordinary, default=0.0))


def _largest(active: Active, is_special: Sequence[bool]) -> list[int]:
    """The latents with the largest values on tokens that are no special ones, whose rows are unlike all others."""
    ordinary_P = np.repeat(~np.asarray(is_special), np.diff(active.offset))
    latents_P, values_P = active.latents[ordinary_P], active.values[ordinary_P]
    order_P = np.lexsort((latents_P, -values_P))
    return list(dict.fromkeys(latents_P[order_P].tolist()))[:MOST_MARKED]


def _strongest(active: Active, place: int) -> list[tuple[int, float]]:
    start, stop = active.offset[place], min(active.offset[place + 1], active.offset[place] + STRONGEST)
    return list(zip(active.latents[start:stop].tolist(), active.values[start:stop].tolist(), strict=True))


def _likeliest(texts: Sequence[Sequence[str]], probabilities_SN: np.ndarray) -> list[tuple[str, float]]:
    return [(of_token[0], float(p)) for of_token, p in zip(texts, probabilities_SN[:, 0], strict=True)]
