"""The label of a latent as chips: the tokens that predict its firing, and how well they do."""

from itertools import groupby
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.explore.words import explanations, how_good
from strata_sae.pipeline.pages.text import cut, visible
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.pipeline.queries.windows import token_text

MOST_CHIPS = 5
LONGEST_WORDS = 200
"""Characters of an explanation in a table, of which a line shows about 60 and its title all."""
LONGEST_CHIP = 24
"""Characters of a token that a chip shows."""

BLANKS = {" ": "␣", "\n": "↵", "\t": "⇥", "\N{NO-BREAK SPACE}": "⍽"}
"""How a blank is shown where it is all there is to see."""
TIMES = "\N{MULTIPLICATION SIGN}"
MOST_RUNS = 4
"""Kinds of blanks in a row that a chip names."""


class Chip(NamedTuple):
    """A token of a label."""

    text: str
    """Without its leading space."""
    spaced: bool
    """Whether a space leads: shown as a faint dot."""
    n_rows: int
    """Rows of this token on which the latent fires."""


class LatentLabel(NamedTuple):
    """What the screens show of a label; `f1` None: the latent fires too rarely to be scored, or labels are not made."""

    chips: tuple[Chip, ...]
    n_more: int
    """Tokens of the set that are not shown."""
    f1: float | None
    """On documents that the label was not found on."""
    words: str = ""
    """What the latent means by an explanation; empty: there is none."""
    told: str = ""
    """Who wrote that, and how well it does."""


NO_LABEL = LatentLabel((), 0, None)


def latent_label(run: CodedRun, sae: CodedSAE, latent: int) -> LatentLabel:
    """The label of one latent, with what an explanation says of it; no chips where no tokens tell when it fires."""
    explained = explanations(sae).of(latent)
    return _token_label(run, sae, latent)._replace(
        words="" if explained is None else cut(explained.text, LONGEST_WORDS),
        told="" if explained is None else how_good(explained),
    )


def _token_label(run: CodedRun, sae: CodedSAE, latent: int) -> LatentLabel:
    labels = sae.labels
    if labels is None:
        return NO_LABEL
    ids = [int(token) for token in labels.token_ids[latent] if token >= 0][:MOST_CHIPS]
    chips = tuple(
        chip(token_text(run, token), int(count)) for token, count in zip(ids, labels.token_counts[latent], strict=False)
    )
    f1 = float(labels.f1[latent])
    return LatentLabel(chips, max(0, int(labels.n_tokens[latent]) - len(chips)), None if np.isnan(f1) else f1)


def chip(text: str, n_rows: int) -> Chip:
    """A chip of a token's text: cut where it is long; of nothing but blanks, how many of each there are."""
    if text.isspace() and len(text) > 1:
        runs = [(char, len(list(run))) for char, run in groupby(text)]
        named = [f"{BLANKS.get(char, visible(char))}{f'{TIMES}{n}' if n > 1 else ''}" for char, n in runs[:MOST_RUNS]]
        return Chip(" ".join(named) + ("…" if len(runs) > MOST_RUNS else ""), False, n_rows)
    spaced = text.startswith(" ") and len(text) > 1
    shown = text[1:] if spaced else BLANKS.get(text, text)
    return Chip(cut(shown, LONGEST_CHIP), spaced, n_rows)
