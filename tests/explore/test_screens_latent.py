"""The screen of a latent: every number on it is that of a count by hand."""

import numpy as np
import pytest

from strata_sae.pipeline.explore.links import Links
from strata_sae.pipeline.explore.pages import page
from strata_sae.pipeline.explore.screen import BadValueError
from strata_sae.pipeline.explore.screens import SCREENS, latent
from strata_sae.pipeline.explore.screens.firing import jaccard, together
from support.evaluation_folder import SITE
from support.tree_run import CHILDREN, LONELY, NARROW, PARENT, WIDE, make_tree, word_ids

SCREEN = next(screen for screen in SCREENS if screen.name == "latent")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("tree"))


def filled(world, number, sae=NARROW, **query):
    return latent.fill(world, {"run": "tree", "sae": sae, "latent": str(number), **query})


def by_hand(world, name, number):
    """Rows on which a latent fires and its values on all, from the rows: encoder and decoder rows are equal."""
    sae = world.runs["tree"].saes[name]
    rows_NM = np.array(sae.stores.stores[0].rows(SITE, 0, world.runs["tree"].text.n_rows))
    value_N = rows_NM @ sae.W_dec[number] - 0.5
    return np.flatnonzero((value_N > 0) & sae.kept()), value_N


def test_counts_and_values_are_those_of_the_rows(world):
    rows, value_N = by_hand(world, NARROW, PARENT)
    found = filled(world, PARENT)
    assert (found["count"], found["n_rows"]) == (len(rows), int((word_ids() > 0).sum()))
    assert found["top"] == pytest.approx(value_N[rows].max())
    counts = np.histogram(value_N[rows].astype(np.float32), 40, (0, found["top"]))[0]
    assert found["bars_"] == pytest.approx(np.sqrt(counts / counts.max()))


def test_groups_hold_rows_of_their_kind(world):
    rows, value_N = by_hand(world, NARROW, PARENT)
    groups = {kind: lines for kind, _, _, lines in filled(world, PARENT)["groups"]}
    assert groups["top"][0].value == pytest.approx(value_N[rows].max())
    assert all(line.row in rows for kind in ("top", "quantiles", "half", "barely") for line in groups[kind])
    assert groups["silent"] and not any(line.row in rows for line in groups["silent"])
    assert {line.focus for line in groups["top"]} <= set(CHILDREN)
    assert all(len(line.before) <= 12 and len(line.after) <= 8 for lines in groups.values() for line in lines)


def test_the_same_rows_in_the_other_sae_are_the_best_by_jaccard(world):
    """Of the wide SAE's latents by brute force; the lonely latent has none."""
    ((name, best),) = filled(world, PARENT)["others"]
    rows, value_N = by_hand(world, NARROW, PARENT)
    alike = [jaccard(rows, by_hand(world, WIDE, number)[0]) for number in range(3)]
    assert (name, best.named.latent) == (WIDE, int(np.argmax(alike)))
    assert best.score == pytest.approx(max(alike))
    strongest = rows[np.lexsort((rows, -value_N[rows]))[:32]]
    assert best.together == np.isin(strongest, by_hand(world, WIDE, best.named.latent)[0]).sum()
    assert filled(world, LONELY)["others"] == [(WIDE, None)]


def test_partners_and_neighbours(world):
    """Axes are orthogonal and a row has one word: nothing fires together."""
    found = filled(world, PARENT)
    assert found["partners"] == []
    assert [one.named.latent for one in found["nearest"]] == [1, 2, 3, 4, 5, 6]  # ties by latent
    assert all(one.score == 0 and one.together == 0 for one in found["nearest"])
    assert found["effects"] == [] and "unembedding" in found["why_no_effects"]


@pytest.mark.parametrize("seed", range(5))
def test_together_is_an_intersection(seed):
    rng = np.random.default_rng(seed)
    first, second = (np.unique(rng.integers(0, 90, size)) for size in (5 * seed, 40))
    both = len(set(first.tolist()) & set(second.tolist()))
    assert together(first, second) == together(second, first) == both
    assert jaccard(first, second) == both / len(set(first.tolist()) | set(second.tolist()))


def test_populations_differ_by_their_rows(world):
    everything = filled(world, PARENT, population="all")
    assert everything["n_rows"] == len(word_ids())
    assert everything["count"] == filled(world, PARENT)["count"]  # BOS has no axis
    with pytest.raises(BadValueError, match="population"):
        filled(world, PARENT, population="some")


@pytest.mark.parametrize("values", [{"latent": "8"}, {"sae": "none"}, {"run": "none"}])
def test_what_is_not_there_is_a_key_error(world, values):
    with pytest.raises(KeyError):
        latent.fill(world, {"run": "tree", "sae": NARROW, "latent": "0", **values})


def test_a_latent_that_never_fires_has_a_page(world, monkeypatch):
    values = {"run": "tree", "sae": WIDE, "latent": "0", "population": "all"}
    assert "fires on none" not in page(SCREEN, world, Links("/t"), values)
    sae = world.runs["tree"].saes[WIDE]
    monkeypatch.setitem(sae._kept, "all", np.zeros(len(word_ids()), bool))  # nothing is of this population
    assert "fires on none" in page(SCREEN, world, Links("/t"), values)
