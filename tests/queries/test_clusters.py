"""Complete linkage is SciPy's; treemaps add up; effects and histograms are those of whole matrices."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster
from scipy.cluster.hierarchy import linkage as scipy_linkage
from scipy.spatial.distance import squareform

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.queries import clusters
from strata_sae.pipeline.queries.cliques import Effects
from strata_sae.pipeline.queries.clusters import bars, direct_effects, effect_graph, linkage, treemap
from strata_sae.pipeline.queries.decoder_pairs import unit_rows
from support.planted_codes import PlantedSAE, random_codes


def rows(n: int = 90, width: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


def groups(numbers: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(numbers == number).tolist()) for number in np.unique(numbers)}


@pytest.mark.parametrize("n", [2, 3, 90])
def test_linkage_is_scipys(n: int) -> None:
    W_dec = rows(n)
    tree = linkage(W_dec)
    unit_EM = unit_rows(W_dec)
    distance_EE = (1 - unit_EM @ unit_EM.T).astype(np.float64)
    np.fill_diagonal(distance_EE, 0)
    theirs = scipy_linkage(squareform(distance_EE, checks=False), "complete")
    assert np.allclose(tree.distance, theirs[:, 2], rtol=0, atol=1e-5)
    assert tree.size.tolist() == theirs[:, 3].astype(int).tolist()
    assert tree.children.tolist() == np.sort(theirs[:, :2].astype(int), axis=1).tolist()
    for distance in (0.0, 0.4, 0.8, 1.2, 2.1):
        assert groups(tree.cut(distance)) == groups(fcluster(theirs, distance, "distance"))


def test_complete_is_not_single_linkage() -> None:
    distance_EE = 1 - unit_rows(rows()) @ unit_rows(rows()).T
    single = scipy_linkage(squareform(np.abs(distance_EE), checks=False), "single")
    assert not np.allclose(linkage(rows()).distance, single[:, 2], atol=0.05)


def test_planted_clusters_are_found_and_numbered_by_their_lowest_latent() -> None:
    centre, of = 5 * rows(3, 40, seed=1), np.array([0, 1, 2, 1, 1, 0, 2, 0, 2, 2])
    W_dec = centre[of] + 0.1 * rows(10, 40, seed=2)
    assert linkage(W_dec).cut(0.3).tolist() == of.tolist()
    assert linkage(W_dec).cut(3.0).tolist() == [0] * 10


def test_too_many_latents_are_refused_with_the_bytes() -> None:
    with pytest.raises(ConfigError, match=r"20,000 latents, .* 2 to 16,384: .* 1.5 GiB here"):
        linkage(np.zeros((20_000, 1), np.float32))
    with pytest.raises(ConfigError, match="1 latents"):
        linkage(rows(1))


def test_a_treemap_adds_up() -> None:
    values = np.arange(90)
    found = treemap(linkage(rows()), values, [f"name {latent}" for latent in range(90)], [0.5, 0.9])
    value = dict(zip(found.ids, found.values, strict=True))
    assert len(value) == len(found.ids) == len(found.labels) == len(found.parents) > 91 + 5
    assert value["all"] == values.sum()
    for name in {*found.parents} - {""}:
        inside = [value[other] for other, parent in zip(found.ids, found.parents, strict=True) if parent == name]
        assert sum(inside) == value[name]
        assert len(inside) > 1
    assert found.labels[found.ids.index("latent 7")] == "name 7"
    depth = {name: 0 for name in [""]}
    for name, parent in zip(found.ids, found.parents, strict=True):  # a cluster comes after the one around it
        depth[name] = depth[parent] + 1
    assert max(depth.values()) == 4


@pytest.fixture
def two() -> tuple[PlantedSAE, PlantedSAE]:
    ablator = PlantedSAE(random_codes(10, 50, 0.1, 0), rows(50))
    reader = PlantedSAE(random_codes(10, 70, 0.1, 0), rows(70, seed=3))
    reader.trained.sae = SimpleNamespace(W_enc=torch.from_numpy(rows(70, seed=4)))
    return ablator, reader


@pytest.mark.parametrize("n", [2, 31, 400, 10_000])
@pytest.mark.parametrize("tile", [1024, 7])
def test_strongest_effects_are_those_of_the_matrix(
    two: tuple[PlantedSAE, PlantedSAE], monkeypatch: pytest.MonkeyPatch, n: int, tile: int
) -> None:
    monkeypatch.setattr(clusters, "_TILE_ROWS", tile)
    ablator, reader = two
    effect_ER = ablator.W_dec @ reader.trained.sae.W_enc.numpy().T
    found = direct_effects(ablator, reader, n)
    cells = sorted(np.ndindex(effect_ER.shape), key=lambda cell: (-abs(effect_ER[cell]), cell))
    above = [cell for cell in cells if effect_ER[cell] > 0][: n // 2]
    below = [cell for cell in cells if effect_ER[cell] < 0][: n // 2]
    assert {*zip(found.ablator.tolist(), found.reader.tolist(), strict=True)} == {*above, *below}
    assert np.allclose(found.value, effect_ER[found.ablator, found.reader], atol=1e-5)
    assert (np.diff(np.abs(found.value)) <= 0).all()
    graph = effect_graph(found, n)
    assert [edge[:2] for edge in graph.edges] == [*zip(found.ablator.tolist(), found.reader.tolist(), strict=True)]
    assert graph.ablators == sorted({a for a, _ in [*above, *below]})
    assert graph.readers == sorted({r for _, r in [*above, *below]})


def test_a_graph_takes_half_of_either_sign() -> None:
    effects = Effects(np.arange(6), np.array([3, 3, 1, 1, 0, 0]), np.array([9.0, 8.0, 7.0, -1.0, -2.0, -0.5]))
    assert effect_graph(effects, 4).edges == [(0, 3, 9.0), (1, 3, 8.0), (4, 0, -2.0), (3, 1, -1.0)]


def test_effects_between_other_widths_are_refused(two: tuple[PlantedSAE, PlantedSAE]) -> None:
    ablator, reader = two
    with pytest.raises(ConfigError, match="at least 2"):
        direct_effects(ablator, reader, 1)
    reader.trained.sae.W_enc = torch.zeros(70, 13)
    with pytest.raises(ConfigError, match=r"writes rows of 12, but .* reads rows of 13"):
        direct_effects(ablator, reader, 4)


def test_histograms_count_what_is_finite() -> None:
    values = np.array([0.0, 0.001, 0.1, 0.1, 1.0, np.nan, np.inf])
    found = bars(values, 4)
    assert found.counts == [4, 0, 0, 1]
    assert found.edges == [0.0, 0.25, 0.5, 0.75, 1.0]
    found = bars(values, 3, logarithmic=True)
    assert found.counts == [1, 0, 3]
    assert np.allclose(found.edges, [0.001, 0.01, 0.1, 1.0])
    assert bars(np.zeros(3), logarithmic=True).counts == [0]
