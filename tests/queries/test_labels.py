"""Labels: no set of tokens does better on the documents they are fitted on, and the score is of other documents."""

import numpy as np
import pytest

from strata_sae.pipeline.kernels.machine.compiled.labels import count_tokens, token_sets
from strata_sae.pipeline.queries.labels import LEAST_ROWS, halves, make_counts, make_labels, tokens_of
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from support.brute_labels import best_f1, dense, f1_of, most_common
from support.coded_run import SITE, make, opened

N, U, E = 400, 9, 30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> CodedRun:
    make(folder := tmp_path_factory.mktemp("coded"))
    return opened(folder)


@pytest.fixture(scope="module", params=["topk", "wide"])
def sae(run: CodedRun, request: pytest.FixtureRequest) -> CodedSAE:
    return run.saes[f"{request.param}@{SITE}"]


class Made:
    """Latents that fire on tokens of a vocabulary of nine with chances of their own; some never fire."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.rank_N = rng.integers(0, U, N).astype(np.int32)
        self.half_N = rng.integers(-1, 2, N).astype(np.int8)
        chance_EU = rng.choice([0, 0.05, 0.5, 0.9, 1], (E, U))
        chance_EU[0] = 0
        self.fires_EN = rng.random((E, N)) < chance_EU[:, self.rank_N]
        self.offset = np.concatenate([[0], np.cumsum(self.fires_EN.sum(axis=1))])
        self.rows = np.nonzero(self.fires_EN)[1].astype(np.int64)
        self.total_2U = np.stack([np.bincount(self.rank_N[self.half_N == half], minlength=U) for half in (0, 1)])

    def sets(self, n_named: int = 8) -> tuple[np.ndarray, ...]:
        return token_sets(self.offset, self.rows, self.rank_N, self.half_N, self.total_2U, n_named)


@pytest.mark.parametrize("seed", range(4))
def test_no_set_of_tokens_has_a_larger_f1(seed: int) -> None:
    made = Made(seed)
    active, f1, size, named, counts = made.sets(n_named=U)
    fit, test = made.half_N == 0, made.half_N == 1
    for latent, fires_N in enumerate(made.fires_EN):
        assert active[latent].tolist() == [(fires_N & fit).sum(), (fires_N & test).sum()]
        assert f1[latent, 0] == best_f1(fires_N[fit], made.rank_N[fit])
        chosen = named[latent, : size[latent]]
        predicted_N = np.isin(made.rank_N, chosen)
        assert f1[latent, 0] == f1_of(fires_N[fit], predicted_N[fit])
        assert f1[latent, 1] == f1_of(fires_N[test], predicted_N[test])
        seen = made.rank_N[fires_N & (fit | test) & predicted_N].tolist()
        assert list(zip(chosen.tolist(), counts[latent, : size[latent]].tolist(), strict=True)) == most_common(seen, U)
        assert (named[latent, size[latent] :] == -1).all()
    assert (size[0], f1[0].tolist()) == (0, [0, 0])


def test_the_set_is_a_prefix_of_the_tokens_by_precision() -> None:
    made = Made(9)
    _, _, size, named, _ = made.sets(n_named=U)
    fit = made.half_N == 0
    for latent, fires_N in enumerate(made.fires_EN):
        precision_U = np.array([(fires_N & fit & (made.rank_N == token)).sum() for token in range(U)])
        precision_U = precision_U / made.total_2U[0]
        chosen = np.isin(np.arange(U), named[latent, : size[latent]])
        if chosen.any() and not chosen.all():
            assert precision_U[chosen].min() > precision_U[~chosen].max()


def test_fewer_names_are_those_that_fire_most_often() -> None:
    made = Made(2)
    whole, short = made.sets(n_named=U), made.sets(n_named=2)
    assert (short[3] == whole[3][:, :2]).all()
    assert (short[4] == whole[4][:, :2]).all()
    assert (short[2] == whole[2]).all()


def test_counts_are_those_of_every_pair() -> None:
    made = Made(5)
    expected_UE = np.zeros((U, E), np.int64)
    for latent, fires_N in enumerate(made.fires_EN):
        expected_UE[:, latent] = np.bincount(made.rank_N[fires_N & (made.half_N >= 0)], minlength=U)
    n_pairs, nothing = np.zeros(U, np.int64), np.empty(0, np.uint32)
    count_tokens(made.offset, made.rows, made.rank_N, made.half_N, 0, n_pairs, nothing, nothing)
    assert n_pairs.tolist() == (expected_UE > 0).sum(axis=1).tolist()
    at = np.concatenate([[0], np.cumsum(n_pairs)[:-1]])
    latent_Q, count_Q = np.zeros(n_pairs.sum(), np.uint32), np.zeros(n_pairs.sum(), np.uint32)
    for first in (0, 7, 20):  # some latents at a time
        last = {0: 7, 7: 20, 20: E}[first]
        offset = made.offset[first : last + 1]
        rows = made.rows[offset[0] : offset[-1]]
        count_tokens(offset - offset[0], rows, made.rank_N, made.half_N, first, at, latent_Q, count_Q)
    tokens, latents = np.nonzero(expected_UE)
    assert latent_Q.tolist() == latents.tolist()
    assert count_Q.tolist() == expected_UE[tokens, latents].tolist()


def test_labels_of_a_run_are_those_of_its_rows(run: CodedRun, sae: CodedSAE) -> None:
    values_NE, half_N, text = dense(run, sae), halves(sae, run.text), run.text
    labels = make_labels(sae, text)
    fit, test = half_N == 0, half_N == 1
    assert np.isfinite(labels.f1).any()
    for latent in range(sae.d_sae):
        fires_N = values_NE[:, latent] != 0
        enough = min((fires_N & fit).sum(), (fires_N & test).sum()) >= LEAST_ROWS
        assert np.isfinite(labels.f1[latent]) == np.isfinite(labels.f1_fit[latent]) == enough
        named = [int(token) for token in labels.token_ids[latent] if token >= 0]
        assert len(named) == min(8, labels.n_tokens[latent])
        assert named == tokens_of(sae, text, latent)
        for token, count in zip(named, labels.token_counts[latent].tolist(), strict=False):
            assert count == (fires_N & (half_N >= 0) & (text.token_id == token)).sum()
        if enough and labels.n_tokens[latent] <= 8:
            predicted_N = np.isin(text.token_id, named)
            assert labels.f1[latent] == np.float32(f1_of(fires_N[test], predicted_N[test]))
            assert labels.f1_fit[latent] == np.float32(f1_of(fires_N[fit], predicted_N[fit]))


def test_halves_share_no_document_and_leave_out_what_training_did(run: CodedRun, sae: CodedSAE) -> None:
    half_N = halves(sae, run.text)
    fit, test = (set(run.text.document[half_N == half].tolist()) for half in (0, 1))
    assert fit == set(range(0, 40, 2))
    assert test == set(range(1, 40, 2))
    assert ((half_N >= 0) == sae.kept()).all()


def test_the_score_does_not_see_what_it_was_fitted_on(run: CodedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A latent that fires on one token in even documents and on another in odd ones: a perfect fit, worth nothing."""
    sae, text = run.saes[f"topk@{SITE}"], run.text
    rows = np.flatnonzero(text.token_id == np.where(text.document % 2, 7, 5))
    monkeypatch.setattr(sae.codes, "rows_of", lambda latent: (rows, np.ones(len(rows), np.float32)))
    monkeypatch.setattr("strata_sae.pipeline.queries.labels.LEAST_ROWS", 5)
    labels = make_labels(sae, text)
    assert labels.f1_fit[0] == 1
    assert labels.f1[0] == 0
    assert labels.token_ids[0, 0] == 5


def test_counts_of_a_run_add_up(run: CodedRun, sae: CodedSAE) -> None:
    counts, text, kept = make_counts(sae, run.text), run.text, sae.kept()
    fires_NE = (dense(run, sae) != 0) & kept[:, None]
    assert counts.active.tolist() == fires_NE.sum(axis=0).tolist()
    assert counts.rows.tolist() == [int((kept & (text.token_id == token)).sum()) for token in text.tokens.ids]
    for rank, token in enumerate(text.tokens.ids):
        some = slice(counts.offset[rank], counts.offset[rank + 1])
        expected_E = fires_NE[text.token_id == token].sum(axis=0)
        assert counts.latent[some].tolist() == np.flatnonzero(expected_E).tolist()
        assert counts.together[some].tolist() == expected_E[expected_E > 0].tolist()
