"""Which latents fire on a token: by the token's text, over all SAEs of all runs at once."""

from collections.abc import Mapping
from typing import NamedTuple

from strata_sae.pipeline.explore.latent_label import Chip, LatentLabel, chip, latent_label
from strata_sae.pipeline.explore.screen import Context, Screen, World
from strata_sae.pipeline.explore.words import holding
from strata_sae.pipeline.queries.opened import CodedRun
from strata_sae.pipeline.queries.search import rows_holding, search

MOST_HITS = 50
MOST_TOKENS = 8
"""Tokens of a query that are named."""
LONGEST_QUERY = 200
"""Characters; what is longer is no token."""


class Meant(NamedTuple):
    """A token that the query means."""

    chip: Chip
    text: str


class Found(NamedTuple):
    """A latent in the table."""

    run: str
    sae: str
    latent: int
    f1: float
    """Of its firing on just the rows that hold the tokens."""
    n_rows: int
    label: LatentLabel


class InWords(NamedTuple):
    """A latent whose explanation holds the text."""

    run: str
    sae: str
    latent: int
    n_rows: int
    label: LatentLabel


def searched(world: World, values: Mapping[str, str]) -> Context:
    """The latents whose firing the tokens of a text predict best, and those whose explanation holds it."""
    query = values.get("q", "")[:LONGEST_QUERY]
    texts = {run.text.store.id: run for run in world.runs.values()} if query else {}
    meant, n_rows = [], 0
    for run in texts.values():
        ids = run.text.tokens.matching(query)
        n_rows += rows_holding(run.text, query)
        meant += [_meant(run, token) for token in ids]
    hits = [hit for name, run in world.runs.items() for hit in _hits(name, run, query)] if meant else []
    hits.sort(key=lambda hit: -hit.f1)
    explained = [hit for name, run in world.runs.items() for hit in _explained(name, run, query)] if query else []
    meant.sort(key=lambda token: -token.chip.n_rows)
    return {
        "query": query,
        "meant": meant,
        "n_rows": n_rows,
        "hits": hits[:MOST_HITS],
        "most_tokens": MOST_TOKENS,
        "explained": explained[:MOST_HITS],
        "n_explained": len(explained),
    }


def _meant(run: CodedRun, token: int) -> Meant:
    text = run.text.tokens.text(token)
    return Meant(chip(text, len(run.text.tokens.rows_of([token]))), text)


def _explained(name: str, run: CodedRun, query: str) -> list[InWords]:
    """The latents of a run whose explanations hold a text."""
    return [
        InWords(name, sae.name, latent, int(sae.codes.table["count"][latent]), latent_label(run, sae, latent))
        for sae in run.saes.values()
        for latent, _ in holding(sae, query)
    ]


def _hits(name: str, run: CodedRun, query: str) -> list[Found]:
    found = search(list(run.saes.values()), run.text, query, MOST_HITS)
    return [
        Found(name, hit.sae, hit.latent, hit.f1, hit.active, latent_label(run, run.saes[hit.sae], hit.latent))
        for hit in found
    ]


SEARCH = Screen("search", "/search", searched)
