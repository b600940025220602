"""Latents of a narrow SAE that a wider one splits into several, and latents that the wider one's children absorb.

Everything is read from rows. A candidate for a child of a latent p of the narrow SAE (the parent) is a latent c of the
wide one with at least `least_inside` of its rows among p's, and at least `least_covered` of p's rows among its own. The
counterpart of p is the candidate whose rows are most like p's by their Jaccard index. Candidates are taken by the rows
they share with p, the counterpart first; one is a child unless a child before it is active on more than half of the
rows that it shares with p: latents that are active together do not share p out, they say the same.

Split: a parent with at least two children.

Absorption (the latent form of seed 000's toy, judging.md: of the rows on which a child's latent is active, the share on
which its parent's is silent): p's rows are known from the narrow SAE. Its counterpart must be active on at least
`least_counterpart` of them. Another child absorbs p if on at least `least_silent` of the rows that it shares with p the
counterpart is silent: the feature is there, since p says so, the child stands for it, and the latent that means it is
off. By rows alone, a split into one large and several small children looks the same. Decoder rows tell them apart: an
absorbed counterpart points where the parent does (`counterpart_cosine` near 1), and a part of a split does not.
"""

from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.kernels.machine.compiled.cofiring import add_between_children, add_of_children, mostly_inside
from strata_sae.pipeline.queries.decoder_pairs import exact_cosine
from strata_sae.pipeline.queries.matching import kept_of_both
from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.queries.populations import Population
from strata_sae.pipeline.queries.row_pieces import KeptCodes, Told, blocks_together

LEAST_INSIDE = 0.5
"""More of a child's rows are its parent's than not."""
LEAST_COVERED = 0.02
"""A child that covers less of its parent is a rare companion, not a part of it."""
LEAST_SILENT = 0.5
"""The counterpart is off more often than on where the child is active."""
LEAST_COUNTERPART = 0.5
"""What is active on less of a latent's rows does not stand for it."""
LEAST_ROWS = 20
"""A parent with fewer is not looked at: what covers two of four rows is chance."""
MOST_CANDIDATES = 32
"""Of a parent, those that share most rows with it (count); what is counted between them takes 128 bytes each."""


class Child(NamedTuple):
    """A latent of the wide SAE that lies in a latent of the narrow one."""

    latent: int
    together: int
    """Rows of both."""
    covered: float
    """Share of the parent's rows that are the child's."""
    inside: float
    """Share of the child's rows that are the parent's."""
    cosine: float | None
    """Of the decoder rows of parent and child; None where the SAEs write rows of different sites."""


class Split(NamedTuple):
    """A latent of the narrow SAE and the latents of the wide one that share its rows out."""

    parent: int
    children: list[Child]
    """By rows shared, falling; at least two."""
    rows: int
    """The parent's."""
    union: float
    """Share of the parent's rows on which at least one child is active."""
    gain: float
    """union - the largest child's share: what is missed by whoever looks for one match."""


class Absorption(NamedTuple):
    """A child that is active in the place of the latent that stands for its parent."""

    parent: int
    """In the narrow SAE."""
    counterpart: int
    """The latent of the wide SAE that is most like the parent."""
    child: int
    """In the wide SAE."""
    together: int
    """Rows of parent and child."""
    absorbed: int
    """Those of them on which the counterpart is silent."""
    share: float
    """absorbed / together: the absorption rate of this child."""
    of_parent: float
    """absorbed / rows of the parent."""
    counterpart_cosine: float | None
    """Of the decoder rows of parent and counterpart; None where the SAEs write rows of different sites."""
    child_cosine: float | None
    """Of the decoder rows of parent and child: an absorbing child carries the parent's direction."""


class _Families(NamedTuple):
    """Children of each parent, the counterpart first: C together, of E latents of the narrow SAE."""

    offset: np.ndarray
    """int64 [E + 1]."""
    child: np.ndarray
    together: np.ndarray
    with_counterpart: np.ndarray
    """Rows of parent, child and counterpart: int64 [C]; at the counterpart, its own."""
    rows_E: np.ndarray
    rows_F: np.ndarray
    covered_E: np.ndarray


def splits(
    narrow: CodedSAE,
    wide: CodedSAE,
    population: Population = "as_trained",
    *,
    least_inside: float = LEAST_INSIDE,
    least_covered: float = LEAST_COVERED,
    told: Told | None = None,
) -> list[Split]:
    """The latents of the narrow SAE with at least two children in the wide one; by `gain` falling, ties by latent.

    Rows count that belong to the population of both.
    Raises: ConfigError if a share does not lie between 0 and 1, or if the two are not of the same rows.
    """
    found = _families(narrow, wide, population, least_inside, least_covered, told)
    is_same_site, split = _writes(narrow) == _writes(wide), []
    for parent in np.flatnonzero(np.diff(found.offset) >= 2).tolist():
        of, rows = slice(*found.offset[parent : parent + 2].tolist()), int(found.rows_E[parent])
        children = []
        for latent, n in zip(found.child[of].tolist(), found.together[of].tolist(), strict=True):
            cosine = exact_cosine(narrow.W_dec[parent], wide.W_dec[latent]) if is_same_site else None
            children.append(Child(latent, n, n / rows, n / int(found.rows_F[latent]), cosine))
        children.sort(key=lambda child: (-child.together, child.latent))
        union = int(found.covered_E[parent]) / rows
        split.append(Split(parent, children, rows, union, union - children[0].covered))
    return sorted(split, key=lambda one: (-one.gain, one.parent))


def absorptions(
    narrow: CodedSAE,
    wide: CodedSAE,
    population: Population = "as_trained",
    *,
    least_inside: float = LEAST_INSIDE,
    least_covered: float = LEAST_COVERED,
    least_silent: float = LEAST_SILENT,
    least_counterpart: float = LEAST_COUNTERPART,
    told: Told | None = None,
) -> list[Absorption]:
    """The children that absorb a latent of the narrow SAE; by `of_parent` falling, ties by latents.

    Raises: as `splits`; ConfigError if `least_silent` is below 0.5, where no child is.
    """
    _check("least share of the counterpart", least_counterpart)
    _check("least share of silent rows", least_silent, 0.5)
    found = _families(narrow, wide, population, least_inside, least_covered, told)
    is_same_site, absorbed = _writes(narrow) == _writes(wide), []
    for parent in np.flatnonzero(np.diff(found.offset) >= 2).tolist():
        start, stop = found.offset[parent : parent + 2].tolist()
        counterpart, rows = int(found.child[start]), int(found.rows_E[parent])
        if found.together[start] < least_counterpart * rows:
            continue
        for place in range(start + 1, stop):
            child, together = int(found.child[place]), int(found.together[place])
            silent = together - int(found.with_counterpart[place])
            if silent and silent >= least_silent * together:
                pair = (wide.W_dec[counterpart], wide.W_dec[child])
                cosines = [exact_cosine(narrow.W_dec[parent], row) if is_same_site else None for row in pair]
                shares = silent / together, silent / rows
                absorbed.append(Absorption(parent, counterpart, child, together, silent, *shares, *cosines))
    return sorted(absorbed, key=lambda one: (-one.of_parent, one.parent, one.child))


def _check(name: str, share: float, least: float = 0.0) -> None:
    if not least <= share <= 1:
        raise ConfigError(f"{name}: {share}, but it lies between {least:g} and 1")


def _writes(sae: CodedSAE) -> list[tuple[str, int]]:
    """The sites whose rows the decoder gives, and their widths."""
    record = sae.trained.record
    return [(part.site, part.width) for part in record.writes] or [(record.site, record.d_out)]


def _families(
    narrow: CodedSAE,
    wide: CodedSAE,
    population: Population,
    least_inside: float,
    least_covered: float,
    told: Told | None,
) -> _Families:
    _check("least share inside the parent", least_inside)
    _check("least share of the parent", least_covered)
    first, second = kept_of_both(narrow, wide, population)
    rows_E, rows_F = first.counts(), second.counts()
    found = [
        mostly_inside(together_BF, start, rows_E[start : start + len(together_BF)], rows_F, least_inside, least_covered)
        for start, together_BF in blocks_together(first, second, told=told)
    ]
    parent_C, child_C, together_C = (np.concatenate(parts) for parts in zip(*found, strict=True))
    is_large = rows_E[parent_C] >= LEAST_ROWS
    ordered = _counterpart_first(parent_C[is_large], child_C[is_large], together_C[is_large], rows_E, rows_F)
    parent_C, child_C, together_C, place_C = (part[ordered[-1] < MOST_CANDIDATES] for part in ordered)
    between_CK = _between(first, second, parent_C, child_C)
    is_child_C = _share_out(place_C, together_C, between_CK)
    with_C = np.where(place_C > 0, between_CK[:, 0], together_C).astype(np.int64)[is_child_C]
    parent_C, child_C, together_C = parent_C[is_child_C], child_C[is_child_C], together_C[is_child_C]
    offset, covered_E = np.searchsorted(parent_C, np.arange(narrow.d_sae + 1)), np.zeros(narrow.d_sae, np.int64)
    for piece, other in zip(first.pieces(), second.pieces(), strict=True):
        add_of_children(*piece, *other, offset, child_C, wide.d_sae, covered_E)
    return _Families(offset, child_C, together_C, with_C, rows_E, rows_F, covered_E)


def _counterpart_first(
    parent_C: np.ndarray, child_C: np.ndarray, together_C: np.ndarray, rows_E: np.ndarray, rows_F: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Candidates by parent, the counterpart first, then by rows shared falling, ties by latent; and their places."""
    jaccard_C = together_C / (rows_E[parent_C] + rows_F[child_C] - together_C)
    by_likeness = np.lexsort((child_C, -jaccard_C, parent_C))
    _, first_of_each = np.unique(parent_C[by_likeness], return_index=True)
    is_other_C = np.ones(len(parent_C), bool)
    is_other_C[by_likeness[first_of_each]] = False
    order = np.lexsort((child_C, -together_C, is_other_C, parent_C))
    parent_C = parent_C[order]
    place_C = np.arange(len(parent_C)) - np.searchsorted(parent_C, parent_C)
    return parent_C, child_C[order], together_C[order], place_C


def _between(first: KeptCodes, second: KeptCodes, parent_C: np.ndarray, child_C: np.ndarray) -> np.ndarray:
    """On how many of a parent's rows each candidate is active together with each before it: uint32 [C, K]."""
    offset = np.searchsorted(parent_C, np.arange(first.d_sae + 1))
    between_CK = np.zeros((len(child_C), MOST_CANDIDATES), np.uint32)
    for piece, other in zip(first.pieces(), second.pieces(), strict=True):
        add_between_children(*piece, *other, offset, child_C, second.d_sae, between_CK)
    return between_CK


def _share_out(place_C: np.ndarray, together_C: np.ndarray, between_CK: np.ndarray) -> np.ndarray:
    """Whether each candidate is a child: bool [C]."""
    is_child_C = np.zeros(len(place_C), bool)
    for number, place in enumerate(place_C.tolist()):
        before = is_child_C[number - place : number]
        is_child_C[number] = not (2 * between_CK[number, :place][before] > together_C[number]).any()
    return is_child_C
