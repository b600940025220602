"""The screen of two SAEs finds the planted tree, and tells the rows of a pair apart."""

import numpy as np
import pytest

from strata_sae.pipeline.explore.screen import BadValueError
from strata_sae.pipeline.explore.screens import compare
from strata_sae.pipeline.explore.screens.comparing import KINDS, compared, likeness
from strata_sae.pipeline.explore.screens.firing import firing
from strata_sae.pipeline.queries.splits import Child, Split
from support.tree_run import LONELY, N_NARROW, N_WIDE, NARROW, PARENT, WIDE, make_tree


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("tree"))


def filled(world, a=NARROW, b=WIDE, **query):
    return compare.fill(world, {"run": "tree", "a": a, "b": b, **query})


def test_the_parent_is_split_into_its_children(world):
    (family,) = filled(world)["families"]
    assert family.parent.latent == PARENT
    assert {child.named.latent for child in family.children} == {0, 1, 2}
    assert family.alike == pytest.approx(1.0)
    assert sum(child.covered for child in family.children) == pytest.approx(1.0)
    assert [child.together for child in family.children] == sorted([c.together for c in family.children], reverse=True)


def test_every_latent_has_one_kind(world):
    kinds = {name: n for name, _, n in filled(world)["kinds"]}
    assert sum(kinds.values()) == N_NARROW
    assert (kinds["split"], kinds["matched"], kinds["alone"]) == (1, 6, 1)
    saes = world.runs["tree"].saes
    kind = compared(saes[NARROW], saes[WIDE]).kind
    assert [list(KINDS)[kind[latent]] for latent in (PARENT, LONELY)] == ["split", "alone"]
    back = {name: n for name, _, n in filled(world, WIDE, NARROW)["kinds"]}
    assert sum(back.values()) == N_WIDE
    assert (back["split"], back["matched"], back["alone"]) == (0, 6, 4)


def test_only_here_are_those_whose_word_the_other_does_not_know(world):
    found = filled(world)
    assert [one.mine.latent for one in found["alone_a"]] == [LONELY]
    assert {one.mine.latent for one in found["alone_b"]} == {9, 10, 11, 12}
    assert {one.mine.latent: one.other.latent for one in found["matched"]} == {n: n + 2 for n in range(1, 7)}


def test_rows_of_a_pair(world):
    saes = world.runs["tree"].saes
    pair = ((NARROW, 0), (WIDE, 1))
    mine, theirs = (set(firing(saes[name], number, "as_trained").rows.tolist()) for name, number in pair)
    sides = filled(world, latent="0", other="1")["sides"]
    assert [side.n_rows for side in sides] == [len(mine - theirs), len(mine & theirs), len(theirs - mine)]
    assert {line.row for line in sides[0].lines} <= mine - theirs
    assert {line.row for line in sides[1].lines} <= mine & theirs
    assert filled(world)["latent"].latent == PARENT  # without a choice: the split


@pytest.mark.parametrize("seed", range(6))
def test_likeness_is_a_lower_bound_of_the_jaccard(seed):
    rng = np.random.default_rng(seed)
    parent = set(rng.choice(60, 30, replace=False).tolist())
    children = [set(rng.choice(60, 20, replace=False).tolist()) for _ in range(3)]
    union = set().union(*children)
    parts = [Child(n, len(c & parent), len(c & parent) / 30, len(c & parent) / 20) for n, c in enumerate(children)]
    split = Split(0, parts, 30, len(union & parent) / 30)
    assert 0 < likeness(split) <= len(parent & union) / len(parent | union) + 1e-12
    apart = [sorted(parent)[:10], sorted(parent)[10:]]  # without rows outside it is the Jaccard itself
    exact = Split(0, [Child(n, len(c), len(c) / 30, 1.0) for n, c in enumerate(apart)], 30, 1.0)
    assert likeness(exact) == 1.0


@pytest.mark.parametrize("query", [{"latent": "8"}, {"other": "13"}, {"latent": "x"}, {"latent": "-1"}])
def test_a_latent_that_is_not_there(world, query):
    with pytest.raises(BadValueError):
        filled(world, **query)


def test_an_sae_is_not_compared_with_itself(world):
    with pytest.raises(BadValueError, match="itself"):
        filled(world, NARROW, NARROW)
    with pytest.raises(KeyError):
        filled(world, NARROW, "none")
