"""The first screen: every SAE of every run, and which of them has the most latents that tokens explain."""

from collections.abc import Mapping
from typing import NamedTuple

from strata_sae.pipeline.explore.measures import EXPLAINED_F1, Explained, Scores, explained, firing, scores
from strata_sae.pipeline.explore.screen import Context, Screen, World
from strata_sae.pipeline.queries.opened import CodedSAE


class Row(NamedTuple):
    """One SAE in the table."""

    run: str
    name: str
    variant: str
    site: str
    d_sae: int
    scores: Scores
    explained: Explained | None
    n_rows: int
    n_dead: int
    heights: list[float]
    """Of its histogram of densities: shares of its latents over the largest share of any SAE."""


def overview(world: World, values: Mapping[str, str]) -> Context:
    """All SAEs by run and site; within a site by the share of latents that tokens explain."""
    shares = {(run, name): _shares(sae) for run, opened in world.runs.items() for name, sae in opened.saes.items()}
    top = max((max(found) for found in shares.values()), default=0.0) or 1.0
    rows = [
        _row(run, sae, [share / top for share in shares[run, name]])
        for run, opened in world.runs.items()
        for name, sae in opened.saes.items()
    ]
    rows.sort(key=lambda row: -row.explained.share if row.explained else 1.0)
    runs = [(run, _by_site([row for row in rows if row.run == run])) for run in world.runs]
    return {
        "runs": runs,
        "best": rows[0] if rows and rows[0].explained else None,
        "n_saes": len(rows),
        "n_latents": sum(row.d_sae for row in rows),
        "least_f1": EXPLAINED_F1,
        "n_unlabelled": sum(row.explained is None for row in rows),
        "top_share": top,
    }


def _shares(sae: CodedSAE) -> list[float]:
    return [int(count) / sae.d_sae for count in firing(sae).density_counts]


def _row(run: str, sae: CodedSAE, heights: list[float]) -> Row:
    found, folder = firing(sae), sae.folder
    made = (folder.variant, folder.site, sae.d_sae, scores(folder), explained(sae))
    return Row(run, sae.name, *made, found.n_rows, found.n_dead, heights)


def _by_site(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """Sites by name; numbers within names by size, so that block 8 comes before block 14."""
    sites = sorted({row.site for row in rows}, key=_natural)
    return [(site, [row for row in rows if row.site == site]) for site in sites]


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


OVERVIEW = Screen("overview", "/", overview)
