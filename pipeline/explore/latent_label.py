"""The label of a latent as chips: the tokens that predict its firing, and how well they do."""

from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE

MOST_CHIPS = 5
LONGEST_CHIP = 24
"""Characters of a token that a chip shows."""


class Chip(NamedTuple):
    """A token of a label."""

    text: str
    """Without its leading space."""
    spaced: bool
    """Whether a space leads: shown as a faint dot."""
    count: int
    """Rows of this token on which the latent fires."""


class LatentLabel(NamedTuple):
    """What the screens show of a label; `f1` None: the latent fires too rarely to be scored, or labels are not made."""

    chips: tuple[Chip, ...]
    n_more: int
    """Tokens of the set that are not shown."""
    f1: float | None
    """On documents that the label was not found on."""


NO_LABEL = LatentLabel((), 0, None)


def latent_label(run: CodedRun, sae: CodedSAE, latent: int) -> LatentLabel:
    """The label of one latent; no chips where it has none."""
    labels = getattr(sae, "labels", None)
    if labels is None:
        return NO_LABEL
    ids = [int(token) for token in labels.token_ids[latent] if token >= 0][:MOST_CHIPS]
    chips = tuple(
        chip(token_text(run, token), int(count)) for token, count in zip(ids, labels.token_counts[latent], strict=False)
    )
    f1 = float(labels.f1[latent])
    return LatentLabel(chips, max(0, int(labels.n_tokens[latent]) - len(chips)), None if np.isnan(f1) else f1)


def chip(text: str, count: int) -> Chip:
    """A chip of a token's text, cut where it is long."""
    spaced = text.startswith(" ") and len(text) > 1
    shown = text[1:] if spaced else text
    return Chip(shown if len(shown) <= LONGEST_CHIP else shown[: LONGEST_CHIP - 1] + "…", spaced, count)


def token_text(run: CodedRun, token: int) -> str:
    """What a token stands for, its number where the store does not say."""
    return run.text.store.vocabulary.get(token, f"<{token}>")
