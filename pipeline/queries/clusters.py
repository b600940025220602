"""Decoder rows in clusters, the strongest direct effects between two SAEs, and histograms of latents.

seeds.md 2.3: `gemma_cluster` (complete linkage and a treemap), `graph_network` (the n / 2 strongest effects of either
sign) and `plot_effect_l0`; analysis.md row 56.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.kernels.machine.compiled.linkage import complete_linkage
from strata_sae.pipeline.queries.cliques import Effects
from strata_sae.pipeline.queries.decoder_pairs import unit_rows
from strata_sae.pipeline.queries.opened import CodedSAE

MOST_POINTS = 16_384
"""Latents whose linkage is made (count): their distances take E^2 x 4 bytes, 1 GiB of this many."""
_TILE_ROWS = 1024
"""Latents whose effects are in memory at once (count)."""


class Linkage(NamedTuple):
    """A tree of clusters, as SciPy has it: cluster e < E is latent e, and join j makes cluster E + j."""

    children: np.ndarray
    """int64 [E - 1, 2]: the clusters that a join puts together, the lower number first."""
    distance: np.ndarray
    """float32 [E - 1], never falling: the largest 1 - cosine of any two latents of the new cluster."""
    size: np.ndarray
    """int64 [E - 1]: latents of the new cluster."""

    @property
    def n_latents(self) -> int:
        """E."""
        return len(self.children) + 1

    def cut(self, distance: float) -> np.ndarray:
        """The cluster of each latent without joins above a distance: int64 [E], numbered by the lowest latent."""
        root = np.arange(self.n_latents + len(self.children))
        for join in range(int(np.searchsorted(self.distance, distance, side="right")) - 1, -1, -1):
            root[self.children[join]] = root[self.n_latents + join]
        of_latent_E = root[: self.n_latents]
        _, lowest, number = np.unique(of_latent_E, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(lowest))[number]


class Treemap(NamedTuple):
    """What plotly's treemap draws, with branchvalues "total": the value of a cluster is the sum of its parts'."""

    ids: list[str]
    labels: list[str]
    parents: list[str]
    values: list[float]


class EffectGraph(NamedTuple):
    """A bipartite graph: latents of one SAE, latents of another, and the strongest effects between them."""

    ablators: list[int]
    readers: list[int]
    edges: list[tuple[int, int, float]]
    """Ablator, reader, effect: the strongest first, ties by latents."""


class Bars(NamedTuple):
    """A histogram."""

    edges: list[float]
    """Of n bins the n + 1 limits."""
    counts: list[int]


def linkage(W_dec: np.ndarray) -> Linkage:
    """Complete linkage of decoder rows by 1 - cosine.

    W_dec: float32 [E, M]. Raises: ConfigError if there are fewer than 2 latents or more than MOST_POINTS.
    """
    n = len(W_dec)
    if not 2 <= n <= MOST_POINTS:
        raise ConfigError(
            f"{n:,} latents, but clusters are made of 2 to {MOST_POINTS:,}: the distances of all pairs are in memory, "
            f"4 bytes each, {4 * n * n / 2**30:.1f} GiB here"
        )
    unit_EM = unit_rows(W_dec)
    distance_EE = np.float32(1) - unit_EM @ unit_EM.T
    distance_EE = np.maximum(distance_EE, distance_EE.T, out=distance_EE)  # a product may round (i, j) and (j, i) apart
    first, second, height = complete_linkage(distance_EE)
    order = np.argsort(height, kind="stable")
    cluster, size = np.arange(n), np.ones(n, np.int64)
    children, sizes = np.empty((n - 1, 2), np.int64), np.empty(n - 1, np.int64)
    for join, at in enumerate(order.tolist()):
        a, b = int(first[at]), int(second[at])
        children[join] = sorted((int(cluster[a]), int(cluster[b])))
        cluster[b], size[b] = n + join, size[a] + size[b]  # b stands for both, as in the loop
        sizes[join] = size[b]
    return Linkage(children, height[order], sizes)


def treemap(tree: Linkage, values: np.ndarray, labels: Sequence[str], distances: Sequence[float]) -> Treemap:
    """Clusters inside clusters, cut at some distances, the latents innermost.

    values: of each latent, such as its rows, not negative; labels: its name. A cluster of one latent is left out, and
    one that holds all of the cluster around it.
    """
    found = Treemap(["all"], [f"{tree.n_latents:,} latents"], [""], [float(values.sum())])
    inside, n_inside = ["all"] * tree.n_latents, {"all": tree.n_latents}
    for level, distance in enumerate(sorted(distances, reverse=True)):
        of_latent_E = tree.cut(distance)
        order = np.argsort(of_latent_E, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(of_latent_E[order])) + 1):
            name, around = f"{level}.{of_latent_E[group[0]]}", inside[group[0]]
            if len(group) < 2 or len(group) == n_inside[around]:
                continue
            n_inside[name] = len(group)
            found.ids.append(name)
            found.labels.append(f"{len(group)} latents, cosine >= {1 - distance:.2g}")
            found.parents.append(around)
            found.values.append(float(values[group].sum()))
            for latent in group.tolist():
                inside[latent] = name
    found.ids.extend(f"latent {latent}" for latent in range(tree.n_latents))
    found.labels.extend(labels)
    found.parents.extend(inside)
    found.values.extend(values.astype(float).tolist())
    return found


def direct_effects(ablator: CodedSAE, reader: CodedSAE, n: int) -> Effects:
    """The n / 2 strongest direct effects above 0 and the n / 2 below, of one SAE's latents on another's: no model.

    Effect of latent a on latent r: W_dec[a] . W_enc[r], by how much an activation of 1 of a moves the pre-activation of
    r if what a writes arrives as it is: along the residual stream, without what the layers between do to it. Effects of
    an ablation, for which the model is run, have the same form.
    Raises: ConfigError if the one's rows are not as wide as what the other reads, or if `n` is below 2.
    """
    W_dec, W_enc = ablator.W_dec, reader.trained.sae.W_enc.detach().cpu().numpy()
    if W_dec.shape[1] != W_enc.shape[1]:
        raise ConfigError(
            f"{ablator.name} writes rows of {W_dec.shape[1]}, but {reader.name} reads rows of {W_enc.shape[1]}; "
            "direct effects need the same width"
        )
    if n < 2:
        raise ConfigError(f"number of effects: {n}, but at least 2, one above 0 and one below")
    best = Effects(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    for start in range(0, len(W_dec), _TILE_ROWS):
        effect_EF = W_dec[start : start + _TILE_ROWS] @ W_enc.T
        row, column = np.nonzero(_among_largest(effect_EF, n // 2) | _among_largest(-effect_EF, n // 2))
        part = Effects(row + start, column, effect_EF[row, column])
        best = strongest(Effects(*(np.concatenate(both) for both in zip(best, part, strict=True))), n)
    return best


def _among_largest(values: np.ndarray, n: int) -> np.ndarray:
    """Whether each value is above 0 and one of the n largest, or equal to the least of those."""
    if values.size <= n:
        return values > 0
    return (values > 0) & (values >= np.partition(values, values.size - n, axis=None)[values.size - n])


def strongest(effects: Effects, n: int) -> Effects:
    """The n / 2 largest effects above 0 and the n / 2 smallest below; the strongest first, ties by latents."""
    order = np.lexsort((effects.reader, effects.ablator, -np.abs(effects.value)))
    value = effects.value[order]
    kept = np.concatenate([np.flatnonzero(value > 0)[: n // 2], np.flatnonzero(value < 0)[: n // 2]])
    chosen = order[np.sort(kept)]
    return Effects(*(part[chosen] for part in effects))


def effect_graph(effects: Effects, n: int) -> EffectGraph:
    """The bipartite graph of the n strongest effects, as `strongest` chooses them."""
    found = strongest(effects, n)
    edges = list(zip(*(part.tolist() for part in found), strict=True))
    return EffectGraph(sorted(set(found.ablator.tolist())), sorted(set(found.reader.tolist())), edges)


def bars(values: np.ndarray, n_bins: int = 40, *, logarithmic: bool = False) -> Bars:
    """A histogram in equal bins, or in bins of equal ratio, where only values above 0 count.

    For densities of latents, numbers of partners (`cofiring.n_partners`), or values of a latent.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    finite = finite[finite > 0] if logarithmic else finite
    if not len(finite):
        return Bars([0.0, 1.0], [0])
    counts, edges = np.histogram(np.log10(finite) if logarithmic else finite, n_bins)
    return Bars((10**edges if logarithmic else edges).tolist(), counts.tolist())
