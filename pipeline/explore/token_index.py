"""The tokens of labels and the latents they lead: what an export has in the place of a search."""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.explore.latent_label import Chip, latent_label
from strata_sae.pipeline.explore.measures import EXPLAINED_F1
from strata_sae.pipeline.explore.screen import Context, Screen, World

MOST_ENTRIES = 1200
"""Latents in the index, the best explained first: about 100 bytes each."""


class Led(NamedTuple):
    """A latent whose label begins with a token."""

    run: str
    sae: str
    latent: int
    f1: float


class Entry(NamedTuple):
    """A token, and the latents it leads."""

    chip: Chip
    latents: list[Led]


def token_index(world: World, chosen: Mapping[tuple[str, str], np.ndarray]) -> Context:
    """By token, the chosen latents that tokens explain and whose label names it first; the best explained first."""
    by_token: dict[Chip, list[Led]] = defaultdict(list)
    led = []
    for (run, sae), latents in chosen.items():
        for latent in latents.tolist():
            label = latent_label(world.runs[run], world.runs[run].saes[sae], latent)
            if label.chips and label.f1 is not None and label.f1 > EXPLAINED_F1:
                led.append((label.chips[0]._replace(n_rows=0), Led(run, sae, latent, label.f1)))
    led.sort(key=lambda pair: -pair[1].f1)
    for chip, one in led[:MOST_ENTRIES]:
        by_token[chip].append(one)
    entries = [Entry(chip, latents) for chip, latents in by_token.items()]
    entries.sort(key=lambda entry: (entry.chip.text.casefold(), entry.chip.text, not entry.chip.spaced))
    return {"entries": entries, "n_latents": min(len(led), MOST_ENTRIES), "n_more": max(0, len(led) - MOST_ENTRIES)}


def _only_static(world: World, values: Mapping[str, str]) -> Context:
    raise KeyError("tokens")


TOKENS = Screen("tokens", "/search", _only_static)
"""Its latents are those of the export, which gives them."""
