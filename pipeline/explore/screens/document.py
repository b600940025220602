"""The screen of a document: its text, and what all SAEs say at one of its tokens."""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.explore.screen import BadValueError, Context, World, whole_number
from strata_sae.pipeline.explore.screens.shown import Named, named, short
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE, Text
from strata_sae.pipeline.queries.windows import texts

PAGE_TOKENS = 400
"""Tokens of a page: each is a link of about 150 bytes."""
N_LATENTS = 6
"""Latents of an SAE that are shown at a token."""


class Piece(NamedTuple):
    """A token of the text."""

    row: int
    text: str
    value: float | None
    """Of the latent that colours the text; None without one, and on tokens that training leaves out."""


class Saying(NamedTuple):
    """An active latent."""

    named: Named
    value: float
    share: float
    """Of its largest value on rows of training, at most 1."""


class Sayings(NamedTuple):
    """What one SAE says at a token."""

    sae: str
    latents: list[Saying]
    n_active: int
    is_left_out: bool
    """Whether its training leaves the row out."""


def fill(world: World, values: Mapping[str, str]) -> Context:
    """What the page shows of a document. Raises: KeyError if there is no such one; BadValueError."""
    run = world.run(values)
    text, number = run.text, int(values["document"])
    rows = np.flatnonzero(text.document == number)  # a document drawn again lies in two places, a shuffled one in many
    if not len(rows):
        raise KeyError(f"document {number}: the store has none of its rows")
    at = int(np.searchsorted(rows, whole_number(values, "row", int(rows[0]), int(rows[0]), int(rows[-1]))))
    row, page, n_pages = int(rows[at]), at // PAGE_TOKENS, -(-len(rows) // PAGE_TOKENS)
    colour = _colour(run, values)
    return {
        "title": f"document {number}",
        "run": values["run"],
        "document": number,
        "before": _neighbour(text, int(rows[0]) - 1),
        "after": _neighbour(text, int(rows[-1]) + 1),
        "n_tokens": len(rows),
        "position": int(text.position[row]),
        "row": row,
        "page": page,
        "n_pages": n_pages,
        "pages": [(place, int(rows[place * PAGE_TOKENS])) for place in _places(page, n_pages)],
        "pieces": _pieces(text, rows[page * PAGE_TOKENS :][:PAGE_TOKENS], colour),
        "here": _texts(text, np.array([row]))[0],
        "colour": None if colour is None else named(run, *colour),
        "top": 0.0 if colour is None else float(colour[0].codes.table["max"][colour[1]]),
        "sayings": [_sayings(run, sae, row) for sae in run.saes.values()],
    }


def _colour(run: CodedRun, values: Mapping[str, str]) -> tuple[CodedSAE, int] | None:
    """The latent whose values colour the text, if the query names one."""
    name = values.get("sae", "")
    if not name or not values.get("latent"):
        return None
    if name not in run.saes:
        raise BadValueError(f"sae: {name[:80]} is none of this run's")
    sae = run.saes[name]
    return sae, whole_number(values, "latent", 0, 0, sae.d_sae - 1)


def _pieces(text: Text, rows: np.ndarray, colour: tuple[CodedSAE, int] | None) -> list[Piece]:
    values = [None] * len(rows) if colour is None else colour[0].codes.values(colour[1], rows).tolist()
    return [Piece(*piece) for piece in zip(rows.tolist(), _texts(text, rows), values, strict=True)]


def _texts(text: Text, rows: np.ndarray) -> list[str]:
    """Texts of rows, rising: each stretch without gaps apart, since a character may be spread over tokens."""
    position = text.position[rows].astype(np.int64)
    breaks = [0, *(np.flatnonzero((np.diff(position) != 1) | (np.diff(rows) != 1)) + 1).tolist(), len(rows)]
    parts = [texts(text, int(rows[a]), int(rows[b - 1]) + 1) for a, b in itertools.pairwise(breaks)]
    return [short(word) for part in parts for word in part]


def _sayings(run: CodedRun, sae: CodedSAE, row: int) -> Sayings:
    """The active latents of an SAE at a row, by value falling; ties by latent."""
    active, values = sae.codes.latents_of(row, row + 1)[1], sae.codes.row_values(row, row + 1)
    top = sae.codes.table["max"]
    shown = []
    for i in np.lexsort((active, -values))[:N_LATENTS]:
        latent, value = int(active[i]), float(values[i])
        shown.append(Saying(named(run, sae, latent), value, min(1.0, value / max(float(top[latent]), 1e-30))))
    return Sayings(sae.name, shown, len(active), not bool(sae.kept()[row]))


def _places(page: int, n_pages: int) -> list[int]:
    """Pages to offer: the first, the last, and those around this one."""
    return sorted({0, n_pages - 1, *range(max(0, page - 2), min(n_pages, page + 3))})


def _neighbour(text: Text, row: int) -> int | None:
    """The document of a row; None beyond the store."""
    return int(text.document[row]) if 0 <= row < text.n_rows else None
