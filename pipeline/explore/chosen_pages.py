"""Which pages an export has, since every latent, pair and document would be many thousands."""

from collections.abc import Mapping
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.explore.latents import LATENTS, latents
from strata_sae.pipeline.explore.links import Links
from strata_sae.pipeline.explore.overview import OVERVIEW
from strata_sae.pipeline.explore.screen import Context, Screen, World
from strata_sae.pipeline.explore.screens import SCREENS
from strata_sae.pipeline.explore.token_index import TOKENS, token_index
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE

MOST_PAIRS = 12
"""Comparisons of two SAEs of a run; each takes about as long as fifty latents."""
Chosen = dict[tuple[str, str], np.ndarray]
"""Run and SAE -> the latents that an export has, int64, by falling rows."""


class StaticPage(NamedTuple):
    """One page of an export."""

    address: str
    screen: Screen
    values: Mapping[str, str]


def chosen_latents(sae: CodedSAE, n_latents: int) -> np.ndarray:
    """The densest latents and those that tokens explain best, in turn, until there are n; by falling rows."""
    count_E = sae.codes.table["count"]
    alive = np.flatnonzero(count_E > 0)
    densest = alive[np.argsort(-count_E[alive], kind="stable")]
    ranked = densest
    if (labels := sae.labels) is not None:
        explained = densest[np.argsort(-np.nan_to_num(labels.f1[densest], nan=-1.0), kind="stable")]
        ranked = np.stack([densest, explained], axis=1).ravel()
    _, first = np.unique(ranked, return_index=True)
    kept = ranked[np.sort(first)][:n_latents]
    found: np.ndarray = kept[np.lexsort((kept, -count_E[kept]))]
    return found


def chosen_pages(world: World, chosen: Chosen) -> list[StaticPage]:
    """Every page of an export: one of each SAE and of each chosen latent, maps, some comparisons, and an index."""
    links, screens = Links(""), {screen.name: screen for screen in SCREENS}
    pages = [_page("/", OVERVIEW), _page("/search", TOKENS._replace(fill=partial(_index, chosen)))]
    for (run, sae), latents_L in chosen.items():
        values = {"run": run, "sae": sae}
        listed = LATENTS._replace(fill=partial(_listed, latents_L))
        pages.append(_page(links.sae(run, sae), listed, values))
        if "map" in screens:
            pages.append(_page(links.map(run, sae), screens["map"], values))
        if "latent" in screens:
            shown = [(latent, links.latent(run, sae, latent)) for latent in latents_L.tolist()]
            pages += [_page(to, screens["latent"], {**values, "latent": str(latent)}) for latent, to in shown]
    if "compare" in screens:
        for name, opened in world.runs.items():
            for a, b in compared(opened)[:MOST_PAIRS]:
                pages.append(_page(links.compare(name, a, b), screens["compare"], {"run": name, "a": a, "b": b}))
    return pages


def compared(run: CodedRun) -> list[tuple[str, str]]:
    """Pairs of SAEs of a run: those of one site first."""
    pairs = combinations(run.saes, 2)
    return sorted(pairs, key=lambda pair: run.saes[pair[0]].folder.site != run.saes[pair[1]].folder.site)


def _page(address: str | None, screen: Screen, values: Mapping[str, str] | None = None) -> StaticPage:
    return StaticPage(address or "/", screen, values or {})


def _listed(latents_L: np.ndarray, world: World, values: Mapping[str, str]) -> Context:
    return latents(world, values, latents_L)


def _index(chosen: Chosen, world: World, values: Mapping[str, str]) -> Context:
    return token_index(world, chosen)
