"""The screen of two SAEs: matched, split, absorbed and lonely latents, and the rows on which two latents differ."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.explore.screen import BadValueError, Context, World, whole_number
from strata_sae.pipeline.explore.screens.comparing import ALONE, KINDS, MATCHED, Comparison, compared
from strata_sae.pipeline.explore.screens.firing import Firing, firing
from strata_sae.pipeline.explore.screens.shown import Line, Named, heights, lines, named
from strata_sae.pipeline.queries.matching import Match
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.pipeline.queries.splits import Split

N_SHOWN, N_CHILDREN, N_ROWS, N_BINS = 12, 8, 6, 20
CLEAR_ROWS = 30
"""Rows from which a latent is shown among the matched and the lonely: what fires less often is alike or not by chance."""


class Matched(NamedTuple):
    """A latent and its best match."""

    mine: Named
    other: Named | None
    rows: int
    jaccard: float


class Part(NamedTuple):
    """A child of a split."""

    named: Named
    together: int
    covered: float
    inside: float


class Family(NamedTuple):
    """A parent and its children."""

    parent: Named
    rows: int
    alike: float
    children: list[Part]
    n_more: int


class Side(NamedTuple):
    """Rows of one kind of a pair."""

    heading: str
    n_rows: int
    shown: Named
    """The latent whose values are shown."""
    lines: list[Line]
    top: float


def fill(world: World, values: Mapping[str, str]) -> Context:
    """What the page shows of two SAEs. Raises: KeyError; BadValueError; ConfigError if they are not of the same rows."""
    run, first, second = world.run(values), world.sae(values, "a"), world.sae(values, "b")
    if first is second:
        raise BadValueError(f"{first.name}: an SAE is compared with another one, not with itself")
    found = compared(first, second)
    splits = [pair for pair in found.splits if pair[0].rows >= CLEAR_ROWS]
    counts = np.bincount(found.kind, minlength=len(KINDS)).tolist()
    return {
        "title": f"{first.name} and {second.name}",
        "run": values["run"],
        "first": first.name,
        "second": second.name,
        "saes": list(run.saes),
        "kinds": [(name, said, n) for (name, said), n in zip(KINDS.items(), counts, strict=True)],
        "d_sae": first.d_sae,
        "matched_from": MATCHED,
        "alone_below": ALONE,
        "clear_rows": CLEAR_ROWS,
        "there": _spread(first, found.there),
        "back": _spread(second, found.back),
        "families": [_family(run, first, second, *one) for one in splits[:N_SHOWN]],
        "n_families": len(splits),
        "absorptions": [
            (named(run, first, one.parent), named(run, second, one.counterpart), named(run, second, one.child), one)
            for one in found.absorptions[:N_SHOWN]
        ],
        "n_absorptions": len(found.absorptions),
        "matched": _matched(run, first, second, found),
        "alone_a": _alone(run, first, second, found.there),
        "alone_b": _alone(run, second, first, found.back),
        **_pair(run, first, second, found, values),
    }


def _spread(sae: CodedSAE, match: Match) -> tuple[list[float], float]:
    """Histogram of the best Jaccard of latents that fire, and its median."""
    alike = match.jaccard[sae.codes.table["count"] > 0]
    bars = heights(np.histogram(alike, N_BINS, (0.0, 1.0))[0].tolist())
    return bars, float(np.median(alike)) if len(alike) else 0.0


def _family(run: CodedRun, first: CodedSAE, second: CodedSAE, split: Split, alike: float) -> Family:
    children = [
        Part(named(run, second, child.latent), child.together, child.covered, child.inside)
        for child in split.children[:N_CHILDREN]
    ]
    n_more = len(split.children) - len(children)
    return Family(named(run, first, split.parent), split.rows, alike, children, n_more)


def _matched(run: CodedRun, first: CodedSAE, second: CodedSAE, found: Comparison) -> list[Matched]:
    """The most alike of those that are each other's best, by Jaccard falling; ties by latent."""
    is_shown = (found.kind == list(KINDS).index("matched")) & (first.codes.table["count"] >= CLEAR_ROWS)
    latents = np.flatnonzero(is_shown)
    order = latents[np.argsort(-found.there.jaccard[latents], kind="stable")]
    return [_best(run, first, second, found.there, int(latent)) for latent in order[:N_SHOWN]]


def _alone(run: CodedRun, mine: CodedSAE, other: CodedSAE, match: Match) -> list[Matched]:
    """The latents with nothing alike in the other, those that fire most often first; ties by latent."""
    count = mine.codes.table["count"]
    latents = np.flatnonzero((match.jaccard < ALONE) & (count >= CLEAR_ROWS))
    order = latents[np.argsort(-count[latents], kind="stable")]
    return [_best(run, mine, other, match, int(latent)) for latent in order[:N_SHOWN]]


def _best(run: CodedRun, mine: CodedSAE, other: CodedSAE, match: Match, latent: int) -> Matched:
    best = int(match.other_latent[latent])
    there = None if best < 0 else named(run, other, best)
    rows = int(mine.codes.table["count"][latent])
    return Matched(named(run, mine, latent), there, rows, float(match.jaccard[latent]))


def _pair(
    run: CodedRun, first: CodedSAE, second: CodedSAE, found: Comparison, values: Mapping[str, str]
) -> Context:
    """Two latents row by row: those of the query; else a parent and its first child, or the most alike."""
    latent = whole_number(values, "latent", _usual_latent(found), 0, first.d_sae - 1)
    usual = next((split.children[0].latent for split, _ in found.splits if split.parent == latent), None)
    if usual is None:
        usual = max(0, int(found.there.other_latent[latent]))
    other = whole_number(values, "other", usual, 0, second.d_sae - 1)
    mine, theirs = firing(first, latent, "as_trained"), firing(second, other, "as_trained")
    in_both = np.isin(mine.rows, theirs.rows, assume_unique=True)
    of_other = np.isin(theirs.rows, mine.rows, assume_unique=True)
    sides = [
        _side(run, first, latent, "Only the first fires", mine, ~in_both),
        _side(run, first, latent, "Both fire", mine, in_both),
        _side(run, second, other, "Only the second fires", theirs, ~of_other),
    ]
    return {"latent": named(run, first, latent), "other": named(run, second, other), "sides": sides}


def _usual_latent(found: Comparison) -> int:
    return found.splits[0][0].parent if found.splits else int(found.there.jaccard.argmax())


def _side(
    run: CodedRun, sae: CodedSAE, latent: int, heading: str, fires: Firing, some: np.ndarray
) -> Side:
    """The rows of a kind, the strongest shown."""
    rows, values = fires.rows[some], fires.values[some]
    order = np.lexsort((rows, -values))[:N_ROWS]
    pairs = [(int(rows[i]), float(values[i])) for i in order]
    top = float(fires.values.max(initial=0.0))
    return Side(heading, len(rows), named(run, sae, latent), lines(run, sae, latent, pairs), top)
