"""Latents of a narrow SAE that a wider one splits into several, and latents that the wider one's children absorb.

Everything is read from rows. A latent c of the wide SAE is a child of a latent p of the narrow one, its parent, if at
least `least_inside` of c's rows are p's, and at least `least_covered` of p's rows are c's.

Split: a parent with at least two children.

Absorption (the latent form of seed 000's toy, judging.md: of the rows on which a child's latent is active, the share on
which its parent's is silent): p's rows are known from the narrow SAE. The counterpart of p is its child with the largest
Jaccard index of rows; it must be active on at least `least_counterpart` of p's rows. Another child absorbs p if on at
least `least_silent` of the rows that it shares with p the counterpart is silent: the feature is there, since p says so,
the child stands for it, and the latent that means it is off. By rows alone, a split into one large and several small
children that exclude each other looks the same. Decoder rows tell them apart: an absorbed counterpart points where the
parent does (`counterpart_cosine` near 1), and a part of a split does not.
"""

from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.kernels.machine.compiled.cofiring import add_of_children, mostly_inside
from strata_sae.pipeline.queries.matching import kept_of_both
from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.queries.populations import Population
from strata_sae.pipeline.queries.row_pieces import Told, blocks_together

LEAST_INSIDE = 0.5
"""More of a child's rows are its parent's than not."""
LEAST_COVERED = 0.02
"""A child that covers less of its parent is a rare companion, not a part of it."""
LEAST_SILENT = 0.5
"""The counterpart is off more often than on where the child is active."""
LEAST_COUNTERPART = 0.5
"""What is active on less of a latent's rows does not stand for it."""


class Child(NamedTuple):
    """A latent of the wide SAE that lies in a latent of the narrow one."""

    latent: int
    together: int
    """Rows of both."""
    covered: float
    """Share of the parent's rows that are the child's."""
    inside: float
    """Share of the child's rows that are the parent's."""


class Split(NamedTuple):
    """A latent of the narrow SAE and the latents of the wide one that share its rows out."""

    parent: int
    children: list[Child]
    """By rows shared, falling; at least two."""
    rows: int
    """The parent's."""
    union: float
    """Share of the parent's rows on which at least one child is active."""


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
    """E latents of the narrow SAE with C children together; the first axis is [E] or [C]."""

    offset: np.ndarray
    child: np.ndarray
    together: np.ndarray
    rows_E: np.ndarray
    rows_F: np.ndarray
    counterpart_E: np.ndarray
    covered_E: np.ndarray
    without_C: np.ndarray


def splits(
    narrow: CodedSAE,
    wide: CodedSAE,
    population: Population = "as_trained",
    *,
    least_inside: float = LEAST_INSIDE,
    least_covered: float = LEAST_COVERED,
    told: Told | None = None,
) -> list[Split]:
    """The latents of the narrow SAE with at least two children in the wide one; those that are covered best first.

    Rows count that belong to the population of both. Ties by latent.
    Raises: ConfigError if a share does not lie between 0 and 1, or if the two are not of the same rows.
    """
    found = _families(narrow, wide, population, least_inside, least_covered, told)
    split = []
    for parent in np.flatnonzero(np.diff(found.offset) >= 2).tolist():
        of, rows = _of(found, parent), int(found.rows_E[parent])
        children = [
            Child(latent, n, n / rows, n / int(found.rows_F[latent]))
            for latent, n in zip(found.child[of].tolist(), found.together[of].tolist(), strict=True)
        ]
        children.sort(key=lambda child: (-child.together, child.latent))
        split.append(Split(parent, children, rows, int(found.covered_E[parent]) / rows))
    return sorted(split, key=lambda one: (-one.union, one.parent))


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
    """The children that absorb a latent of the narrow SAE, those that take most of its rows first; ties by latents.

    Raises: as `splits`.
    """
    _check("least share of silent rows", least_silent)
    _check("least share of the counterpart", least_counterpart)
    found = _families(narrow, wide, population, least_inside, least_covered, told)
    same_rows, absorbed = _writes(narrow) == _writes(wide), []
    for parent in np.flatnonzero(np.diff(found.offset) >= 2).tolist():
        of, counterpart, rows = _of(found, parent), int(found.counterpart_E[parent]), int(found.rows_E[parent])
        child_C, together_C, without_C = (part[of] for part in (found.child, found.together, found.without_C))
        if together_C[child_C == counterpart][0] < least_counterpart * rows:
            continue
        is_absorbing_C = (child_C != counterpart) & (without_C > 0) & (without_C >= least_silent * together_C)
        for child, together, without in zip(
            *(part[is_absorbing_C].tolist() for part in (child_C, together_C, without_C)), strict=True
        ):
            cosines = [_cosine(narrow, parent, wide, latent) if same_rows else None for latent in (counterpart, child)]
            of_both, of_parent = without / together, without / rows
            absorbed.append(Absorption(parent, counterpart, child, together, without, of_both, of_parent, *cosines))
    return sorted(absorbed, key=lambda one: (-one.of_parent, one.parent, one.child))


def _writes(sae: CodedSAE) -> list[tuple[str, int]]:
    """The sites whose rows the decoder gives, and their widths."""
    record = sae.trained.record
    return [(part.site, part.width) for part in record.writes] or [(record.site, record.d_out)]


def _cosine(narrow: CodedSAE, parent: int, wide: CodedSAE, latent: int) -> float:
    a_M, b_M = narrow.W_dec[parent].astype(np.float64), wide.W_dec[latent].astype(np.float64)
    norm = float(np.linalg.norm(a_M) * np.linalg.norm(b_M))
    return float(a_M @ b_M) / norm if norm else 0.0


def _of(found: _Families, parent: int) -> slice:
    return slice(int(found.offset[parent]), int(found.offset[parent + 1]))


def _check(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ConfigError(f"{name}: {share}, but a share lies between 0 and 1")


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
    offset = np.searchsorted(parent_C, np.arange(narrow.d_sae + 1))
    counterpart_E = np.full(narrow.d_sae, -1, np.int64)
    jaccard_C = together_C / (rows_E[parent_C] + rows_F[child_C] - together_C)
    order = np.lexsort((-child_C, jaccard_C))  # the best is written last; of equals, the lowest latent
    counterpart_E[parent_C[order]] = child_C[order]
    covered_E, without_C = np.zeros(narrow.d_sae, np.int64), np.zeros(len(child_C), np.int64)
    for piece, other in zip(first.pieces(), second.pieces(), strict=True):
        add_of_children(*piece, *other, offset, child_C, counterpart_E, wide.d_sae, covered_E, without_C)
    return _Families(offset, child_C, together_C, rows_E, rows_F, counterpart_E, covered_E, without_C)
