"""The text around a row as people read it, with a latent's value on each token: from the codes, without the model."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE, Text
from strata_sae.pipeline.queries.tokens import cut
from strata_sae.pipeline.reading.context import LONGEST_CHARACTER, shown

BEFORE, AFTER = 12, 8
"""Tokens around a row."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a document around a row."""

    row: int
    document: int
    position: int
    """Of the row in its document."""
    index: int
    """Of the row among the tokens."""
    texts: list[str]
    """Of each token, for people: leading space kept, each character whole at the token that completes it."""
    values: list[float | None]
    """The latent's on each token; None on tokens that training's filters leave out for what they are."""


def window(run: CodedRun, sae: CodedSAE, latent: int, row: int, before: int = BEFORE, after: int = AFTER) -> Window:
    """The tokens around a row, as far as its document and the store go. Raises: ConfigError beyond rows or latents."""
    return windows(run, sae, latent, [row], before, after)[0]


def windows(
    run: CodedRun, sae: CodedSAE, latent: int, rows: Iterable[int], before: int = BEFORE, after: int = AFTER
) -> list[Window]:
    """The windows of several rows, for which the latent's codes are read once. Raises: as `window`."""
    check_latent(sae, latent)
    rows = list(rows)
    stretches = [stretch(run.text, row, before, after) for row in rows]
    wanted = [np.empty(0, np.int64), *(np.arange(start, stop) for start, stop in stretches)]
    values = iter(sae.codes.values(latent, np.concatenate(wanted)).tolist())
    return [_window(run.text, sae, row, around, values) for row, around in zip(rows, stretches, strict=True)]


def _window(text: Text, sae: CodedSAE, row: int, around: tuple[int, int], values: Iterable[float]) -> Window:
    start, stop = around
    left_out = (text.flags[start:stop] & sae.filters.flag_mask()) != 0
    return Window(
        row=row,
        document=int(text.document[row]),
        position=int(text.position[row]),
        index=row - start,
        texts=texts(text, start, stop),
        values=[None if is_out else value for is_out, value in zip(left_out.tolist(), values, strict=False)],
    )


def token_text(run: CodedRun, token_id: int) -> str:
    """The text of a token alone, for people."""
    return run.text.tokens.text(token_id)


def check_latent(sae: CodedSAE, latent: int) -> None:
    """Raises: ConfigError if the SAE has no such latent."""
    if not 0 <= latent < sae.d_sae:
        raise ConfigError(f"latent {latent}: {sae.name} has latents 0 to {sae.d_sae - 1}")


def stretch(text: Text, row: int, before: int, after: int) -> tuple[int, int]:
    """Rows [start, stop) around a row that are one stretch of its document; in a shuffled store, mostly it alone.

    Raises: ConfigError if there is no such row.
    """
    if not 0 <= row < text.n_rows:
        raise ConfigError(f"row {row}: the store has rows 0 to {text.n_rows - 1}")
    start, stop = max(0, row - before), min(text.n_rows, row + after + 1)
    offset_N = text.position[start:stop].astype(np.int64) - np.arange(start, stop)
    other_N = (text.document[start:stop] != text.document[row]) | (offset_N != offset_N[row - start])
    ends, begins = np.flatnonzero(other_N[: row - start]), np.flatnonzero(other_N[row - start :])
    return start + (int(ends[-1]) + 1 if len(ends) else 0), row + int(begins[0]) if len(begins) else stop


def texts(text: Text, start: int, stop: int) -> list[str]:
    """The texts of rows [start, stop) of one stretch of a document, the characters at its ends completed."""
    n_more = LONGEST_CHARACTER - 1
    first, last = stretch(text, start, n_more, 0)[0], stretch(text, stop - 1, 0, n_more)[1]
    tokens = [text.tokens.token(token_id) for token_id in text.token_id[first:last].tolist()]
    return [cut(word) for word in shown(tokens, start - first, stop - first)]
