"""Splits and absorptions between two widths: planted ones, those of brute force, and the tree of the toy."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from strata_sae.pipeline.config.toy import Hierarchy
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.queries import row_pieces
from strata_sae.pipeline.queries.splits import Split, absorptions, splits
from strata_sae.pipeline.toy.generators import Features, drawn, features
from support.planted_codes import PlantedSAE, random_codes

N_ROWS = 600
TREE = Path(__file__).parents[2] / "configs" / "toy_hierarchy.yaml"


def on(*stretches: tuple[int, int]) -> np.ndarray:
    """Rows of some stretches."""
    column_N = np.zeros(N_ROWS, np.float32)
    for start, stop in stretches:
        column_N[start:stop] = 1
    return column_N


def saes(parent: np.ndarray, children: list[np.ndarray], **named: np.ndarray) -> tuple[PlantedSAE, PlantedSAE]:
    """Noise, and latent 4 of the narrow one that is a parent; its children are the latents 10, 11, ... of the wide."""
    narrow_NE, wide_NF = random_codes(N_ROWS, 30, 0.01, seed=1), random_codes(N_ROWS, 60, 0.005, seed=2)
    narrow_NE[:, 4] = parent
    for number, child in enumerate(children):
        wide_NF[:, 10 + number] = child
    return PlantedSAE(narrow_NE, **named), PlantedSAE(wide_NF, **named)


def of_parent_4(found: list[Split]) -> list[int]:
    return [child.latent for one in found if one.parent == 4 for child in one.children]


def test_a_planted_split_is_found_with_its_shares() -> None:
    narrow, wide = saes(on((0, 100)), [on((0, 50)), on((50, 80), (200, 210)), on((80, 95)), on((300, 400))])
    (found,) = [one for one in splits(narrow, wide) if one.parent == 4]
    assert [child[:4] for child in found.children[:3]] == [(10, 50, 0.5, 1.0), (11, 30, 0.3, 0.75), (12, 15, 0.15, 1.0)]
    assert (found.rows, found.gain) == (100, found.union - 0.5)
    assert 13 not in of_parent_4([found])
    wide.codes.dense_NE[:, 20] = on((95, 100))
    assert 20 in of_parent_4(splits(narrow, wide))
    assert 20 not in of_parent_4(splits(narrow, wide, least_covered=0.06))
    assert 11 not in of_parent_4(splits(narrow, wide, least_inside=0.8))


def test_latents_that_say_the_same_are_no_split() -> None:
    narrow, wide = saes(on((0, 100)), [on((0, 98)), on((0, 97)), on((10, 90)), on((0, 40)), on((40, 90))])
    assert of_parent_4(splits(narrow, wide)) == []
    half, wide = saes(on((0, 100)), [on((0, 60)), on((40, 100)), on((50, 100))])
    assert of_parent_4(splits(half, wide)) == [10, 11]  # 12 is active where 11 is


def test_an_absorbing_child_is_found_and_one_beside_its_parent_is_not() -> None:
    narrow, wide = saes(on((0, 100)), [on((0, 70)), on((70, 100)), on((20, 40)), on((65, 74))])
    (found,) = [one for one in absorptions(narrow, wide) if one.parent == 4 and one.child == 11]
    assert found[:7] == (4, 10, 11, 30, 30, 1.0, 0.3)
    assert {one.child for one in absorptions(narrow, wide) if one.parent == 4}.isdisjoint({10, 12, 13})
    present, wide = saes(on((0, 100)), [on((0, 100)), on((70, 100))])
    assert [one for one in absorptions(present, wide) if one.parent == 4] == []
    weak, wide = saes(on((0, 100)), [on((0, 40)), on((40, 70)), on((70, 100))])
    assert [one for one in absorptions(weak, wide) if one.parent == 4] == []  # nothing stands for the parent


def test_directions_tell_an_absorbed_parent_from_a_part_of_a_split() -> None:
    narrow, wide = saes(on((0, 100)), [on((0, 70)), on((70, 100))])
    narrow.W_dec = np.eye(30, 80, dtype=np.float32)
    wide.W_dec = np.eye(60, 80, 10, dtype=np.float32)
    narrow.record.d_out = wide.record.d_out = 80
    wide.W_dec[10] = narrow.W_dec[4]
    wide.W_dec[11] = narrow.W_dec[4] + np.eye(80, dtype=np.float32)[70]
    (found,) = [one for one in absorptions(narrow, wide) if one.parent == 4]
    assert found.counterpart_cosine == pytest.approx(1)
    assert found.child_cosine == pytest.approx(0.5**0.5)
    wide.trained.record.site = "another"
    (found,) = [one for one in absorptions(narrow, wide) if one.parent == 4]
    assert (found.counterpart_cosine, found.child_cosine) == (None, None)


def families_by_loops(narrow: PlantedSAE, wide: PlantedSAE) -> tuple[dict[int, list[int]], set[tuple[int, int, int]]]:
    """Children of each split parent, and (parent, counterpart, absorbing child), as the module says it."""
    parents_NE, children_NF = narrow.active(), wide.active() & narrow.kept()[:, None]
    parents_NE &= wide.kept()[:, None]
    split, absorbed = {}, set()
    for parent in range(narrow.d_sae):
        rows = {*np.flatnonzero(parents_NE[:, parent]).tolist()}
        of = [{*np.flatnonzero(children_NF[:, latent]).tolist()} for latent in range(wide.d_sae)]
        fits = [
            latent
            for latent, own in enumerate(of)
            if rows & own and len(rows & own) >= 0.5 * len(own) and len(rows & own) >= 0.02 * len(rows)
        ]
        if len(rows) < 20 or not fits:
            continue
        counterpart = min(fits, key=lambda latent: (-len(rows & of[latent]) / len(rows | of[latent]), latent))
        fits.sort(key=lambda latent: (latent != counterpart, -len(rows & of[latent]), latent))
        children: list[int] = []
        for latent in fits[:32]:
            if all(2 * len(rows & of[latent] & of[before]) <= len(rows & of[latent]) for before in children):
                children.append(latent)
        if len(children) > 1:
            split[parent] = sorted(children, key=lambda latent: (-len(rows & of[latent]), latent))
        if len(rows & of[counterpart]) >= 0.5 * len(rows):
            absorbed |= {(parent, counterpart, child) for child in children if child != counterpart}
    return split, absorbed


@pytest.mark.parametrize("tiled", [False, True])
def test_families_are_those_of_brute_force(monkeypatch: pytest.MonkeyPatch, tiled: bool) -> None:
    if tiled:
        for name, value in {"BLOCK_BYTES": 4 * 200 * 11, "PAIRS_AT_ONCE": 500, "HELD_BYTES": 0}.items():
            monkeypatch.setattr(row_pieces, name, value)
    rng = np.random.default_rng(6)
    narrow_NE = random_codes(400, 60, 0.1, seed=3)
    inside_NF = narrow_NE[:, rng.integers(0, 60, 200)] * (rng.random((400, 200)) < rng.uniform(0.05, 1, 200))
    wide_NF = np.where(rng.random((400, 200)) < 0.01, 1, inside_NF).astype(np.float32)
    kept, wide_kept = rng.random((2, 400)) < 0.9
    narrow, wide = PlantedSAE(narrow_NE, kept_N=kept), PlantedSAE(wide_NF, kept_N=wide_kept)
    split, absorbed = families_by_loops(narrow, wide)
    found = splits(narrow, wide)
    assert {one.parent: [child.latent for child in one.children] for one in found} == split
    assert {one[:3] for one in absorptions(narrow, wide)} == absorbed
    assert len(split) > 5
    assert len(absorbed) > 5
    for one in found:
        rows_N = narrow.active()[:, one.parent] & wide_kept
        any_N = (wide.active()[:, [child.latent for child in one.children]] & kept[:, None]).any(axis=1)
        assert one.rows == rows_N.sum()
        assert one.union == (rows_N & any_N).sum() / one.rows
    assert [one.gain for one in found] == sorted((one.gain for one in found), reverse=True)


@pytest.fixture(scope="module")
def tree() -> tuple[Features, np.ndarray]:
    """The features of the toy tree (2 roots, 8 children, 32 grandchildren), and on which of 8,000 rows each is on."""
    named = yaml.safe_load(TREE.read_text(encoding="utf-8"))["toy"]
    settings = Hierarchy.model_validate({**named, "n_features": 42, "orthogonal_steps": 0})
    known = features(settings, 0)
    rows = drawn(settings, known, 0, 0, 8000)
    on_NG = np.zeros((8000, settings.n_features + 1), np.float32)
    np.put_along_axis(on_NG, rows.active, 1, axis=1)  # NOTHING is the last
    return known, on_NG[:, :-1]


@pytest.mark.parametrize(("parents", "n_split"), [(range(2), 2), (range(2, 10), 6)])
def test_the_tree_of_the_toy_is_found(tree: tuple[Features, np.ndarray], parents: range, n_split: int) -> None:
    """An SAE of a floor of the tree, and one of the floor below: a parent is split into its own children."""
    known, on_NG = tree
    children = np.flatnonzero(np.isin(known.parent, parents))
    expected = {}
    for number, parent in enumerate(parents):
        n_rows, n_own = on_NG[:, parent].sum(), on_NG[:, children].sum(axis=0)
        large = np.flatnonzero((known.parent[children] == parent) & (n_own >= max(0.02 * n_rows, 1))).tolist()
        if n_rows >= 20 and len(large) >= 2:
            expected[number] = large
    found = splits(PlantedSAE(on_NG[:, parents]), PlantedSAE(on_NG[:, children]))
    assert known.further["exclusive"][parents].all()
    assert {one.parent: sorted(child.latent for child in one.children) for one in found} == expected
    assert len(expected) >= n_split
    assert all(child.inside == 1 for one in found for child in one.children)


def test_absorption_in_the_tree_is_found(tree: tuple[Features, np.ndarray]) -> None:
    """A wide SAE of all features, of which a parent's latent is off where its rarest child is on; and one without."""
    known, on_NG = tree
    parents, faulty_NG, expected = np.arange(2, 10), on_NG.copy(), set()
    for number, parent in enumerate(parents.tolist()):
        children = np.flatnonzero(known.parent == parent)
        n_own = on_NG[:, children].sum(axis=0)
        child = int(children[np.where(n_own >= max(0.05 * on_NG[:, parent].sum(), 1), n_own, np.inf).argmin()])
        faulty_NG[on_NG[:, child] > 0, parent] = 0
        if on_NG[:, parent].sum() >= 20 and faulty_NG[:, parent].sum() >= 0.5 * on_NG[:, parent].sum():
            expected.add((number, parent, child))
    narrow = PlantedSAE(on_NG[:, parents])
    found = absorptions(narrow, PlantedSAE(faulty_NG))
    assert {one[:3] for one in found} == expected
    assert len(expected) >= 5
    assert {one.share for one in found} == {1.0}
    assert absorptions(narrow, PlantedSAE(on_NG)) == []


def test_what_cannot_be_asked() -> None:
    narrow, wide = saes(on((0, 100)), [on((0, 100))])
    with pytest.raises(ConfigError, match=r"inside the parent: 1\.5, but it lies between 0 and 1"):
        splits(narrow, wide, least_inside=1.5)
    with pytest.raises(ConfigError, match=r"silent rows: 0\.2, but it lies between 0\.5 and 1"):
        absorptions(narrow, wide, least_silent=0.2)
    with pytest.raises(ConfigError, match="compare SAEs of one store"):
        splits(narrow, PlantedSAE(random_codes(9, 9, 0.5, seed=0)))
