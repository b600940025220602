"""A toy's truth against SAEs that somebody made by hand: what each metric must say of them, to the digit."""

import itertools
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from strata_sae.pipeline.evaluation.truth.matching import (
    assigned,
    cosines,
    mean_correlation,
    pair_detection,
    uniqueness,
)
from strata_sae.pipeline.evaluation.truth.recovery import Dictionary, Recovery
from strata_sae.pipeline.reading.truth import Truth

N_ROWS, WIDTH, N_CHILDREN = 20_000, 256, 8


class Toy(NamedTuple):
    rows: np.ndarray
    truth: Truth
    codes: np.ndarray
    """1 where a feature is found by its projection."""


@pytest.fixture(scope="module")
def tree() -> Toy:
    """Seed 000's tree, drawn as where the table was measured: numpy's default generator, seed 0."""
    rng = np.random.default_rng(0)
    columns, upper = np.linalg.qr(rng.standard_normal((WIDTH, 1 + N_CHILDREN)))
    features = (columns * np.sign(np.diag(upper))).T
    amplitude = np.zeros((N_ROWS, 1 + N_CHILDREN))
    amplitude[:, 0] = 1.0
    has_child, child = rng.random(N_ROWS) < 0.3, rng.integers(0, N_CHILDREN, N_ROWS)
    amplitude[np.flatnonzero(has_child), 1 + child[has_child]] = 1.0
    rows = amplitude @ features + 0.02 * rng.standard_normal((N_ROWS, WIDTH))
    active = np.stack([np.zeros(N_ROWS, np.int64), np.where(has_child, 1 + child, -1)], axis=1)
    parent = torch.tensor([-1] + [0] * N_CHILDREN)
    truth = Truth(torch.from_numpy(features), parent, torch.zeros(WIDTH).double(), False, active, None)
    return Toy(rows, truth, (rows @ features.T > 0.5) * 1.0)


def recovery(rows: np.ndarray, truth: Truth, codes: np.ndarray, dictionary: Dictionary, b_dec: Any = 0.0) -> Recovery:
    """Fed in batches of 3,000 rows, the last one shorter."""
    W_dec = dictionary.decoder
    b_dec_M = torch.zeros(W_dec.shape[1]).double() + torch.as_tensor(b_dec)
    found = Recovery(truth, dictionary, b_dec_M)
    parts = []
    for numbers in np.split(np.arange(len(rows)), range(3000, len(rows), 3000)):
        code_BE = torch.from_numpy(codes[numbers])
        amplitude = truth.amplitudes(numbers, torch.device("cpu"))
        parts.append((torch.from_numpy(rows[numbers]), code_BE, code_BE @ W_dec + b_dec_M, amplitude))
    for part in parts:
        found.update(*part)
    found.match()
    for _, *part in parts:
        found.follow(*part)
    return found


def of_tree(tree: Toy, codes: np.ndarray, W_dec: torch.Tensor, b_dec: Any = 0.0) -> Recovery:
    return recovery(tree.rows, tree.truth, codes, Dictionary(W_dec, None, None), b_dec)


def assert_row(found: Recovery, **expected: float | None) -> None:
    """Numbers with three digits as the table prints them, 0 and 1 exactly, and nulls."""
    values = {name: measured.value for name, measured in found.recovered().items()}
    for name, value in expected.items():
        got = values[name]
        if value is None:
            assert got is None, name
        elif value in (0.0, 1.0):
            assert got == pytest.approx(value, abs=1e-12), name
        else:
            assert got is not None, name
            assert round(got, 2 if name == "l0" else 3) == value, name


def statuses(found: Recovery) -> set[str]:
    return {child.status for child in found.children()}


def test_the_oracle(tree: Toy):
    found = of_tree(tree, tree.codes, tree.truth.features_GM)
    assert_row(
        found, l0=1.29, r2=0.733, r2_ceiling=0.733, mcc=1.0, uniqueness=1.0, f1_per_latent=1.0, f1_per_feature=1.0,
        latent_absorption=0.0, projection_absorption=0.0, leakage=0.0, suppression=0.0, true_l0=1.292,
    )  # fmt: skip
    assert statuses(found) == {"measured"}
    children = found.children()
    assert sum(child.n_rows for child in children) == int((tree.truth.active_NK[:, 1] >= 0).sum())
    assert all(child.n_rows_fired == child.n_rows for child in children)


def test_absorbed_and_the_childrens_vectors_carry_the_parent(tree: Toy):
    features = tree.truth.features_GM
    W_dec = torch.cat([features[:1], features[1:] + features[0]])
    # Each of these is as near to the parent as to its child, so rounding decides which of the two it is held against:
    # uniqueness and F1 of latents are those of the next test, on either side.
    assert_row(
        of_tree(tree, parent_off(tree.codes), W_dec), l0=1.0, r2=0.733, mcc=0.740, f1_per_feature=0.981,
        latent_absorption=1.0, projection_absorption=0.0, leakage=1.0, suppression=1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("share", "mcc", "uniqueness", "f1_per_latent", "leakage"),
    [(0.99, 0.743, 1.0, 0.981, 0.99), (1.01, 0.737, 0.111, 0.155, 1.01)],
)
def test_a_little_less_or_more_of_the_parent_decides_what_a_child_is_nearest_to(
    tree: Toy, share: float, mcc: float, uniqueness: float, f1_per_latent: float, leakage: float
):
    features = tree.truth.features_GM
    W_dec = torch.cat([features[:1], features[1:] + share * features[0]])
    assert_row(
        of_tree(tree, parent_off(tree.codes), W_dec), l0=1.0, r2=0.733, mcc=mcc, uniqueness=uniqueness,
        f1_per_latent=f1_per_latent, f1_per_feature=0.981, latent_absorption=1.0, projection_absorption=0.0,
        leakage=leakage, suppression=1.0,
    )  # fmt: skip


def test_absorbed_and_the_parent_is_lost(tree: Toy):
    """MCC and uniqueness do not see it."""
    assert_row(
        of_tree(tree, parent_off(tree.codes), tree.truth.features_GM), l0=1.0, r2=-0.028, r2_ceiling=0.733, mcc=1.0,
        uniqueness=1.0, f1_per_latent=0.981, f1_per_feature=0.981, latent_absorption=1.0, projection_absorption=1.0,
        leakage=0.0, suppression=1.0,
    )  # fmt: skip


def test_the_bias_carries_the_parent(tree: Toy):
    """Matched by contribution alone, a child would stand for the parent, and absorption would be .875."""
    codes = tree.codes.copy()
    codes[:, 0] = 0.0
    found = of_tree(tree, codes, tree.truth.features_GM, b_dec=tree.truth.features_GM[0])
    assert_row(
        found, l0=0.29, r2=0.733, mcc=1.0, uniqueness=1.0, f1_per_latent=0.889, f1_per_feature=0.889,
        latent_absorption=None, projection_absorption=0.0, leakage=0.0, suppression=None, dead_latents=1.0,
    )  # fmt: skip
    assert statuses(found) == {"parent carried by b_dec"}


def test_dead_latents_beside_the_oracle(tree: Toy):
    """They lower what counts latents, and nothing else."""
    spare = torch.from_numpy(np.random.default_rng(3).standard_normal((7, WIDTH)))
    codes = np.c_[tree.codes, np.zeros((N_ROWS, 7))]
    assert_row(
        of_tree(tree, codes, torch.cat([tree.truth.features_GM, spare])), l0=1.29, r2=0.733, mcc=1.0,
        uniqueness=0.562, f1_per_latent=0.562, f1_per_feature=1.0, latent_absorption=0.0, projection_absorption=0.0,
        leakage=0.0, suppression=0.0, dead_latents=7.0,
    )  # fmt: skip


def parent_off(codes: np.ndarray) -> np.ndarray:
    """The parent's latent is off where a child's is on."""
    changed = codes.copy()
    changed[codes[:, 1:].sum(axis=1) > 0, 0] = 0.0
    return changed


class Pairs(NamedTuple):
    truth: Truth
    parents: torch.Tensor
    children: torch.Tensor
    """[A, 2, M]"""
    rows: np.ndarray
    amplitude: np.ndarray


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Seed 002's parents with two children: 3 of 50 in a row of width 10; numpy's default generator, seed 1."""
    rng = np.random.default_rng(1)
    parents = unit(rng.standard_normal((50, 10)))
    children = 0.2 * unit(rng.standard_normal((50, 2, 10)))
    features = (parents[:, None] + children).reshape(100, 10)
    on = rng.random((N_ROWS, 50)).argsort(axis=1)[:, :3]
    active = 2 * on + rng.integers(0, 2, (N_ROWS, 3))
    amplitude = np.zeros((N_ROWS, 100))
    np.put_along_axis(amplitude, active, 1.0, axis=1)
    truth = Truth(torch.from_numpy(features), torch.full((100,), -1), torch.zeros(10).double(), True, active, None)
    return Pairs(truth, torch.from_numpy(parents), torch.from_numpy(children), amplitude @ features, amplitude)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_seed_2s_oracle_finds_every_pair_and_equal_children_none(pairs: Pairs):
    composed = pairs.parents[:, None] + pairs.children
    assert pair_detection(composed, pairs.truth.features_GM) == (1.0, 0.0)
    equal = composed[:, :1].expand(-1, 2, -1)
    assert pair_detection(equal, pairs.truth.features_GM) == (0.0, 1.0)


def test_pairs_by_a_loop_over_latents(pairs: Pairs):
    """Random vectors: pair and single detection as seed 002 counts them, latent by latent."""
    rng = np.random.default_rng(5)
    composed = (pairs.parents[:, None] + 2 * pairs.children).numpy() + 0.1 * rng.standard_normal((50, 2, 10))
    features, pair, single = unit(pairs.truth.features_GM.numpy()), 0, 0
    for two in composed:
        one, other = (int((features @ (vector / np.linalg.norm(vector))).argmax()) for vector in two)
        pair += one != other and one // 2 == other // 2
        single += one == other
    assert 0 < pair < 50
    assert 0 < single < 50
    assert pair_detection(torch.from_numpy(composed), pairs.truth.features_GM) == (pair / 50, single / 50)


def test_the_oracle_with_two_children_is_scored_by_its_composed_vectors(pairs: Pairs):
    """Its rows lie as those of two_child_topk: parents, first children, second children."""
    W_dec = torch.cat([pairs.parents, pairs.children[:, 0], pairs.children[:, 1]])
    child = pairs.amplitude.reshape(N_ROWS, 50, 2)
    codes = np.concatenate([child.sum(axis=2), child[:, :, 0], child[:, :, 1]], axis=1)
    found = recovery(pairs.rows, pairs.truth, codes, Dictionary(W_dec, 50, None), 0.0)
    assert_row(
        found, mcc=1.0, f1_per_feature=1.0, f1_per_latent=1.0, uniqueness=1.0, pair_detection=1.0,
        single_detection=0.0, feature_cosine_mean=1.0, feature_cosine_min=1.0, r2=1.0, r2_ceiling=1.0, l0=6.0,
        true_l0=3.0, latent_absorption=None, suppression=None, adjusted_pair_detection=None,
    )  # fmt: skip
    assert found.children() == []


def test_mcc_does_not_see_that_the_children_are_missing_and_f1_of_features_does(pairs: Pairs):
    codes = pairs.amplitude.reshape(N_ROWS, 50, 2).sum(axis=2)
    found = recovery(pairs.rows, pairs.truth, codes, Dictionary(pairs.parents, None, None))
    assert_row(found, mcc=0.984, f1_per_feature=0.336, pair_detection=None)


def test_what_the_ratio_of_training_says_decides_the_adjusted_vectors(pairs: Pairs):
    """Children ten times too long, and ratios of a tenth: adjusted they are right, and as they stand not."""
    W_dec = torch.cat([pairs.parents, *(10 * pairs.children).unbind(dim=1)])
    ratio = torch.cat([torch.ones(50), torch.full((100,), 0.1)])
    child = pairs.amplitude.reshape(N_ROWS, 50, 2)
    codes = np.concatenate([child.sum(axis=2), 0.1 * child[:, :, 0], 0.1 * child[:, :, 1]], axis=1)
    found = recovery(pairs.rows, pairs.truth, codes, Dictionary(W_dec, 50, ratio))
    values = {name: measured.value for name, measured in found.recovered().items()}
    assert values["adjusted_cosine_min"] == pytest.approx(1.0)
    assert (values["adjusted_pair_detection"], values["adjusted_single_detection"]) == (1.0, 0.0)
    assert values["feature_cosine_mean"] is not None
    assert values["feature_cosine_mean"] < 0.9


def test_guards_say_why_there_is_no_number(tree: Toy):
    features = tree.truth.features_GM
    elsewhere = torch.from_numpy(unit(np.random.default_rng(9).standard_normal((1, WIDTH))))
    assert statuses(of_tree(tree, tree.codes, torch.cat([elsewhere, features[1:]]))) == {"parent not found"}
    blind = tree.codes.copy()
    blind[:, 3] = 0.0
    of = {child.child: child for child in of_tree(tree, blind, features).children()}
    assert of[3].status == "child not found"
    assert (of[3].latent_absorption, of[3].leakage, of[3].n_rows_fired) == (None, None, 0)
    assert of[3].suppression == pytest.approx(0.0), "the parent's latent is there"
    assert of[4].status == "measured"
    one = torch.cat([features[:1] + features[1:2], features[1:2] * 0.0, features[2:]])
    merged = {child.child: child for child in of_tree(tree, tree.codes, one).children()}
    assert merged[1].status == "one latent for both"
    assert merged[1].latent_absorption is None, "off and on at once it cannot be: the rate would be 0"


def test_absorption_by_a_loop_over_rows(tree: Toy):
    """Codes that lose the parent in some rows of some children: rates of each child as seed 000 counts them."""
    rng = np.random.default_rng(4)
    codes = tree.codes * rng.uniform(0.5, 1.5, tree.codes.shape) * (rng.random(tree.codes.shape) < 0.8)
    W_dec = (tree.truth.features_GM + 0.3 * torch.roll(tree.truth.features_GM, 1, dims=0)).numpy()
    found = {child.child: child for child in of_tree(tree, codes, torch.from_numpy(W_dec)).children()}
    features, active = tree.truth.features_GM.numpy(), tree.truth.active_NK
    for child in range(1, 9):
        fired = lost = below = n = n_alone = 0
        with_child = alone = 0.0
        for row in range(N_ROWS):
            parent_part = codes[row, 0] * (W_dec[0] @ features[0])
            if active[row, 1] == -1:
                n_alone, alone = n_alone + 1, alone + parent_part
            if active[row, 1] != child:
                continue
            n, with_child = n + 1, with_child + parent_part
            fired += codes[row, child] > 0
            lost += codes[row, child] > 0 and codes[row, 0] <= 0
            below += codes[row] @ W_dec @ features[0] < 0.5
        of = found[child]
        assert (of.n_rows, of.n_rows_fired) == (n, fired)
        assert of.latent_absorption == pytest.approx(lost / fired)
        assert of.projection_absorption == pytest.approx(below / n)
        assert of.leakage == pytest.approx(W_dec[child] @ features[0])
        assert of.suppression == pytest.approx(1 - with_child / n / (alone / n_alone))


def test_fewer_latents_than_features_and_rows_of_zeros_are_scored(tree: Toy):
    features = tree.truth.features_GM
    few = of_tree(tree, tree.codes[:, :3], features[:3])
    assert_row(few, mcc=1.0, uniqueness=1.0, f1_per_latent=1.0, f1_per_feature=0.333)
    nothing = of_tree(tree, np.zeros((N_ROWS, 9)), torch.zeros_like(features))
    assert_row(
        nothing, mcc=0.0, f1_per_latent=0.0, f1_per_feature=0.0, dead_latents=9.0, latent_absorption=None, leakage=None
    )
    assert statuses(nothing) == {"parent not found"}


def test_features_that_are_on_in_no_row_are_left_out(tree: Toy):
    """Half of the children never occur: an SAE that lacks them has found all that there was."""
    kept = np.flatnonzero(tree.truth.active_NK[:, 1] <= 4)
    truth = replace(tree.truth, active_NK=tree.truth.active_NK[kept])
    found = recovery(tree.rows[kept], truth, tree.codes[kept][:, :5], Dictionary(truth.features_GM[:5], None, None))
    assert_row(found, f1_per_feature=1.0, latent_absorption=0.0)
    assert found.n_features_on == 5
    never = replace(tree.truth, active_NK=np.full((N_ROWS, 1), -1))
    nothing = recovery(tree.rows, never, tree.codes, Dictionary(truth.features_GM, None, None))
    assert_row(nothing, f1_per_feature=None, f1_per_latent=0.0, true_l0=0.0, latent_absorption=None)


def test_mcc_is_the_best_assignment_of_all():
    """Against every permutation of 5 latents."""
    rng = np.random.default_rng(2)
    cosine = cosines(torch.from_numpy(rng.standard_normal((5, 7))), torch.from_numpy(rng.standard_normal((5, 7))))
    every = [np.mean([abs(float(cosine[i, p[i]])) for i in range(5)]) for p in itertools.permutations(range(5))]
    assert mean_correlation(cosine, assigned(cosine)) == pytest.approx(max(every))
    assert uniqueness(cosine) == len({int(row.abs().argmax()) for row in cosine}) / 5
