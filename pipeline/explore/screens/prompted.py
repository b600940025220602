"""What the screen of a prompt shows of an answer: tokens, what comes next, latents before a change and with it."""

from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.explore.latent_label import NO_LABEL, Chip, chip
from strata_sae.pipeline.explore.screens.shown import Named, named, short
from strata_sae.pipeline.queries.asked_model import Active, Prompted
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE

N_LATENTS = 6
"""Latents of an SAE that are shown at a token."""
N_CHANGED = 8
"""As many where a change was made: what fell is shown beside what rose."""
N_FOLLOWING = 10


class Piece(NamedTuple):
    """A token of the text."""

    text: str
    value: float | None
    """What it is coloured by; None: nothing, or it is a special token."""
    is_special: bool


class Saying(NamedTuple):
    """A latent at a token."""

    named: Named
    value: float
    after: float | None
    """With the change; None: nothing was changed before this SAE."""
    share: float
    share_after: float
    """Of its largest value on rows of training, at most 1; of a latent without one, of the largest in this text."""


class Sayings(NamedTuple):
    """What one SAE says at a token."""

    sae: str
    has_pages: bool
    latents: list[Saying]
    n_more: int
    """Latents that are active, or that moved, and are not shown."""
    n_active: int
    n_after: int | None
    """With the change; None: nothing was changed before this SAE."""


class Next(NamedTuple):
    """A token that may come next."""

    chip: Chip
    probability: float


class Coloured(NamedTuple):
    """What the text is coloured by."""

    kind: str | None
    """kl, before or after."""
    latent: tuple[CodedSAE, int] | None


def pieces(prompted: Prompted, coloured: Coloured) -> list[Piece]:
    """The tokens, each with its value."""
    values = _values(prompted, coloured)
    return [
        Piece(short(text), None if values is None or special else float(values[i]), special)
        for i, (text, special) in enumerate(zip(prompted.texts, prompted.is_special, strict=True))
    ]


def _values(prompted: Prompted, coloured: Coloured) -> np.ndarray | None:
    """float32 [S]."""
    if coloured.kind == "kl":
        return prompted.kl_S
    seen = prompted.edited if coloured.kind == "after" else prompted.clean
    if coloured.kind is None or coloured.latent is None or seen is None:
        return None
    sae, latent = coloured.latent
    active = seen.active.get(sae.name, prompted.clean.active.get(sae.name))
    return None if active is None else active.values_S(latent)


def kl_at(prompted: Prompted, at: int) -> float | None:
    """KL at a token (nat)."""
    return None if prompted.kl_S is None else float(prompted.kl_S[at])


def following(prompted: Prompted, at: int) -> list[tuple[str, list[Next]]]:
    """Next tokens after a token, without the change and with it."""
    both = [("next", prompted.clean), *([("with the change", prompted.edited)] if prompted.edited else [])]
    found = []
    for name, seen in both:
        pairs = zip(seen.following.texts[at], seen.following.probabilities[at].tolist(), strict=True)
        found.append((name, [Next(chip(text, 0), probability) for text, probability in pairs][:N_FOLLOWING]))
    return found


def sayings(run: CodedRun, prompted: Prompted, at: int) -> list[Sayings]:
    """What every SAE says at a token: the most active latents, or those that a change moved most. Ties by latent."""
    return [_sayings(run, prompted, name, at) for name in in_order(run, prompted)]


def in_order(run: CodedRun, prompted: Prompted) -> list[str]:
    """The SAEs that were asked: those with codes in the order of the run, then the others."""
    there = prompted.clean.active
    return [*(name for name in run.saes if name in there), *(name for name in there if name not in run.saes)]


def _sayings(run: CodedRun, prompted: Prompted, name: str, at: int) -> Sayings:
    was = _at(prompted.clean.active[name], at)
    changed = None if prompted.edited is None else prompted.edited.active.get(name)
    now = None if changed is None else _at(changed, at)
    if now is None:
        order, most = sorted(was, key=lambda latent: (-was[latent], latent)), N_LATENTS
    else:
        moved = {latent: abs(now.get(latent, 0.0) - was.get(latent, 0.0)) for latent in was | now}
        order = sorted((one for one in moved if moved[one]), key=lambda one: (-moved[one], one))
        most = N_CHANGED
    top = largest_values(run, prompted, name)
    shown = []
    for latent in order[:most]:
        value, after = was.get(latent, 0.0), None if now is None else now.get(latent, 0.0)
        shares = share_of(value, top[latent]), share_of(after or 0.0, top[latent])
        shown.append(Saying(named_of(run, name, latent), value, after, *shares))
    return Sayings(name, name in run.saes, shown, len(order) - len(shown), len(was), None if now is None else len(now))


def _at(active: Active, at: int) -> dict[int, float]:
    """The latents of a token and their values."""
    pairs = slice(int(active.offset[at]), int(active.offset[at + 1]))
    return dict(zip(active.latents[pairs].tolist(), active.values[pairs].tolist(), strict=True))


def largest_values(run: CodedRun, prompted: Prompted, name: str) -> np.ndarray:
    """The largest value of each latent: on rows of training; of one that is silent there, or of an SAE without codes,
    in this text. Special tokens do not count: their rows are often a hundred times as long as others.
    """
    ordinary_S = ~np.asarray(prompted.is_special, bool)
    both = [seen.active[name] for seen in (prompted.clean, prompted.edited) if seen is not None and name in seen.active]
    stored_E = run.saes[name].codes.table["max"] if name in run.saes else np.zeros(0, np.float32)
    n_latents = max(len(stored_E), 1 + max(int(one.latents.max(initial=0)) for one in both))
    here_E = np.zeros(n_latents, np.float32)
    for one in both:
        is_counted = np.repeat(ordinary_S, np.diff(one.offset))
        np.maximum.at(here_E, one.latents[is_counted], one.values[is_counted])
    return np.where(stored_E > 0, stored_E, here_E) if len(stored_E) else here_E


def share_of(value: float, top: float) -> float:
    """A value out of the largest, 0 to 1."""
    return min(1.0, max(0.0, value) / max(float(top), 1e-30))


def named_of(run: CodedRun, name: str, latent: int) -> Named:
    """A latent with its label, where its SAE has codes."""
    return named(run, run.saes[name], latent) if name in run.saes else Named(name, latent, NO_LABEL)
