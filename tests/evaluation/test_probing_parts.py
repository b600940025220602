"""The parts of a probe: scores, ranking, draws and labels, each against what is known by hand or by another library."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.evaluation.probing.classifier import auc, probe, ranked, weighted_f1
from strata_sae.pipeline.evaluation.probing.drawing import UNLABELLED, drawn, of_texts, of_tokens
from strata_sae.pipeline.evaluation.probing.token_labels import TokenRows, labels
from strata_sae.stores import Token

WORDS = {
    0: (b"", True),
    1: b" the",
    2: b" The",
    3: b"n",
    4: b" 12",
    5: b".",
    6: b" \xc3\x89t",
    7: b"\xe2",
    8: b"s",
    9: b"\n",
    10: b" S",
}


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_scikit_learn(seed: int):
    rng = np.random.default_rng(seed)
    y_N = rng.integers(0, 2, 50)
    score_N = rng.integers(0, 8, 50) / 8 + 0.1 * y_N  # with ties
    assert auc(y_N, score_N) == roc_auc_score(y_N, score_N)
    assert auc(y_N, y_N + 0.0) == 1.0
    assert auc(y_N, np.zeros(50)) == 0.5
    assert auc(y_N, rng.standard_normal(50)) != 0.5
    assert auc(y_N, -score_N) == pytest.approx(1 - auc(y_N, score_N), abs=1e-12)
    found_N = (score_N > 0.5).astype(int)
    assert weighted_f1(y_N, found_N) == pytest.approx(f1_score(y_N, found_N, average="weighted"), abs=1e-12)


def test_latents_are_ranked_by_class_means_of_their_own_scale():
    y_N = np.repeat([0, 1], 100)
    codes_NE = torch.zeros(200, 4)
    codes_NE[:, 0] = 100.0  # large, and equal in both classes
    codes_NE[100:150, 1] = 0.01  # small, and in half of one class
    codes_NE[:, 2] = torch.arange(200) % 2  # in half of both
    codes_NE[100:, 3] = -0.5  # negative, in all of one class
    assert ranked(codes_NE, y_N)[:2].tolist() == [3, 1]
    tiled = torch.cat([codes_NE, codes_NE[:, :1].repeat(1, 3)], dim=1)
    assert ranked(tiled, y_N)[:2].tolist() == [3, 1]


def test_a_probe_of_few_rows_or_one_class_is_refused():
    x_NK, y_N = np.zeros((128, 1), np.float32), np.tile([0, 1], 64)
    with pytest.raises(ConfigError, match="127 training rows; a probe needs 128"):
        probe(x_NK[:127], y_N[:127], x_NK, y_N, 42)
    with pytest.raises(ConfigError, match="of one class"):
        probe(x_NK, np.sort(y_N), x_NK, y_N, 42)  # the last rows, on which C is chosen
    with pytest.raises(ConfigError, match="of one class"):
        probe(x_NK, y_N, x_NK, np.zeros(128, int), 42)
    assert probe(x_NK, y_N, x_NK, y_N, 42).auc == 0.5  # a latent that is never active


def test_draws_of_texts_are_disjoint_balanced_and_of_their_seed():
    y_N = np.array([0] * 150 + [1] * 120)
    one, other = of_texts(y_N, 42), of_texts(y_N, 43)
    assert not set(one.train) & set(one.test)
    assert (len(one.train), len(one.test)) == (160, 80)
    assert [y_N[rows].mean() for rows in one] == [0.5, 0.5]
    np.testing.assert_array_equal(one.train, of_texts(y_N, 42).train)
    assert set(one.train) != set(other.train)
    assert drawn(y_N, 5, 3, 0).train.size == 5


def test_draws_of_tokens_share_neither_documents_nor_token_ids():
    rng = np.random.default_rng(0)
    token_id, document = rng.integers(0, 50, 4000), np.sort(rng.integers(0, 12, 4000))
    y_N = (token_id < 20).astype(np.int8)
    y_N[::7] = UNLABELLED
    for seed in range(42, 47):
        train, test = of_tokens(y_N, token_id, document, 900, seed)
        assert not set(document[train]) & set(document[test])
        assert not set(token_id[train]) & set(token_id[test])
        assert y_N[train].mean() == y_N[test].mean() == 0.5
        assert len(train) <= 600
        assert len(test) <= 300
    # The control: rows drawn without regard to either share both.
    mixed = drawn(y_N, 600, 300, 42)
    assert set(document[mixed.train]) & set(document[mixed.test])
    assert set(token_id[mixed.train]) & set(token_id[mixed.test])


def tokens() -> dict[int, Token]:
    return {n: Token(*word) if isinstance(word, tuple) else Token(word, special=False) for n, word in WORDS.items()}


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        # BOS the n . The | 12 Et s (part of a character) \n s S n; of token 99 the vocabulary says nothing
        ("first_letter_s", [-1, 0, 0, -1, 0, -1, -1, 1, -1, -1, 1, 1, 0, -1]),
        ("digit", [-1, 0, 0, 0, 0, 1, 0, 0, -1, -1, 0, 0, 0, -1]),
        ("capitalised", [-1, 0, 0, -1, 1, -1, 1, 0, -1, -1, 0, 1, 0, -1]),
        ("starts_word", [-1, 1, 0, -1, 1, -1, 1, 0, -1, -1, 1, 1, 0, -1]),
        ("next_starts_word", [-1, 0, -1, 1, -1, 1, 0, -1, -1, 1, 1, 0, -1, -1]),
        ("next_punctuation", [-1, 0, 1, 0, -1, 0, 0, -1, -1, 0, 0, 0, -1, -1]),
        ("next_digit", [-1, 0, 0, 0, -1, 0, 0, -1, -1, 0, 0, 0, -1, -1]),
    ],
)
def test_labels_of_tokens(task: str, expected: list[int]):
    token_id = np.array([0, 1, 3, 5, 2, 4, 6, 8, 7, 9, 8, 10, 3, 99])
    document = np.array([0] * 5 + [1] * 9)
    position = np.array([*range(5), *range(9)])
    assert labels(task, TokenRows(token_id, document, position), tokens()).tolist() == expected


def test_a_document_that_begins_before_its_first_row_says_nothing_of_the_token_before():
    rows = TokenRows(np.array([3, 3]), np.array([0, 0]), np.array([7, 8]))
    assert labels("starts_word", rows, tokens()).tolist() == [UNLABELLED, 0]
