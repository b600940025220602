"""The latents of all SAEs over a whole typed text: the strongest, or those that a change moved most."""

from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.explore.screens.prompted import in_order, largest_values, named_of
from strata_sae.pipeline.explore.screens.shown import Named
from strata_sae.pipeline.queries.asked_model import Active, Prompted
from strata_sae.pipeline.queries.opened import CodedRun

N_STRONGEST = 12
"""Latents of all SAEs that are shown of the whole text."""


class Strong(NamedTuple):
    """A latent in the whole text."""

    named: Named
    has_pages: bool
    n_tokens: int
    """On which it is active, without the change."""
    largest: float
    share: float
    change: float | None
    """Sum over the tokens of how much its value changed; None: nothing was changed."""


def strongest(run: CodedRun, prompted: Prompted) -> list[Strong]:
    """Latents of all SAEs in the whole text but its special tokens: those that come nearest to their largest value, of
    equals the larger first; where a change was made, those it moved most, in shares of their largest value.
    """
    counted_S = ~np.asarray(prompted.is_special, bool)
    found: list[tuple[tuple[float, float], Strong]] = []
    for name in in_order(run, prompted):
        top_E = np.maximum(largest_values(run, prompted, name), 1e-30)
        n_E, sum_E, largest_E = _totals(prompted.clean.active[name], counted_S, len(top_E))
        share_E, change_E = np.minimum(largest_E / top_E, 1.0), None
        if prompted.edited is not None:
            if name not in prompted.edited.active:
                continue
            change_E = _totals(prompted.edited.active[name], counted_S, len(top_E))[1] - sum_E
        score_E = share_E if change_E is None else np.abs(change_E) / top_E
        order = np.lexsort((-largest_E, -score_E))[:N_STRONGEST]
        for latent in order[score_E[order] > 0].tolist():
            strong = Strong(
                named_of(run, name, latent),
                name in run.saes,
                int(n_E[latent]),
                float(largest_E[latent]),
                float(share_E[latent]),
                None if change_E is None else float(change_E[latent]),
            )
            found.append(((-float(score_E[latent]), -strong.largest), strong))
    found.sort(key=lambda pair: pair[0])
    return [strong for _, strong in found[:N_STRONGEST]]


def _totals(active: Active, counted_S: np.ndarray, n_latents: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each latent over the tokens that count: on how many it is active, int64, its sum and its largest, float64."""
    is_counted = np.repeat(counted_S, np.diff(active.offset))
    latents, values = active.latents[is_counted], active.values[is_counted].astype(np.float64)
    largest_E = np.zeros(n_latents)
    np.maximum.at(largest_E, latents, values)
    return np.bincount(latents, minlength=n_latents), np.bincount(latents, values, n_latents), largest_E
