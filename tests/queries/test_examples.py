"""Examples of every kind equal those of sorting everything; what is drawn depends on seed and latent alone."""

from itertools import islice

import numpy as np
import pytest

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.queries.examples import KINDS, N_BINS, Kind, _Draw, examples
from strata_sae.pipeline.queries.labels import tokens_of
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from support.brute_labels import context, dense, first_distinct
from support.coded_run import SITE, make, opened

LATENTS = range(0, 48, 5)
ALL = 10_000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> CodedRun:
    make(folder := tmp_path_factory.mktemp("coded"))
    return opened(folder)


@pytest.fixture(scope="module")
def sae(run: CodedRun) -> CodedSAE:
    return run.saes[f"topk@{SITE}"]


@pytest.fixture(scope="module")
def values_NE(run: CodedRun, sae: CodedSAE) -> np.ndarray:
    return dense(run, sae)


def active(values_NE: np.ndarray, latent: int, kept_N: np.ndarray) -> list[tuple[int, float]]:
    return [(row, float(values_NE[row, latent])) for row in np.flatnonzero(kept_N) if values_NE[row, latent] != 0]


@pytest.mark.parametrize("population", ["as_trained", "all"])
@pytest.mark.parametrize("n", [1, 7, ALL])
def test_sorted_kinds_are_those_of_a_full_sort(
    run: CodedRun, sae: CodedSAE, values_NE: np.ndarray, population: str, n: int
) -> None:
    for latent in LATENTS:
        pairs = active(values_NE, latent, sae.kept(population))
        largest = max([value for _, value in pairs], default=0)
        orders = {
            "top": sorted(pairs, key=lambda pair: (-pair[1], pair[0])),
            "half": sorted(pairs, key=lambda pair: (abs(pair[1] - largest / 2), pair[0])),
            "barely": sorted(pairs, key=lambda pair: (pair[1], pair[0])),
        }
        for kind, order in orders.items():
            found = examples(run, sae, latent, kind, n, population=population)
            assert [tuple(example) for example in found] == first_distinct(run.text, order, n)


def test_equal_values_come_in_the_order_of_their_rows(run: CodedRun, sae: CodedSAE, monkeypatch) -> None:
    rows = np.arange(1, 1199, 3)
    monkeypatch.setattr(sae.codes, "rows_of", lambda latent: (rows, np.full(len(rows), 2.5, np.float32)))
    kept = [int(row) for row in rows if sae.kept()[row]]
    for kind in ("top", "half", "barely"):
        assert [example.row for example in examples(run, sae, 0, kind, 20)] == kept[:20]


def test_quantiles_are_drawn_from_bins_of_equally_many_rows(
    run: CodedRun, sae: CodedSAE, values_NE: np.ndarray
) -> None:
    for latent in LATENTS:
        pairs = sorted(active(values_NE, latent, sae.kept()), key=lambda pair: (-pair[1], pair[0]))
        bins = np.array_split(np.array([row for row, _ in pairs], np.int64), N_BINS)
        found = examples(run, sae, latent, "quantiles", 20)
        numbers = [next(n for n, rows in enumerate(bins) if example.row in rows) for example in found]
        assert numbers == sorted(numbers)
        assert max(np.bincount(numbers), default=0) <= 2
        if min(map(len, bins)) >= 2:
            assert len(found) == 20
        for number in set(numbers):
            values = [example.value for example, other in zip(found, numbers, strict=True) if other == number]
            assert values == sorted(values, reverse=True)
        assert dict(pairs).items() >= {tuple(example) for example in found}


@pytest.mark.parametrize("n", [3, 10, 14])
def test_quantiles_are_spread_over_the_bins(run: CodedRun, sae: CodedSAE, values_NE: np.ndarray, n: int) -> None:
    latent = int((values_NE[sae.kept()] != 0).sum(axis=0).argmax())
    rows = sorted(active(values_NE, latent, sae.kept()), key=lambda pair: (-pair[1], pair[0]))
    bins = np.array_split(np.array([row for row, _ in rows]), N_BINS)
    found = examples(run, sae, latent, "quantiles", n)
    counts = [sum(example.row in some for example in found) for some in bins]
    assert len(found) == n
    assert max(counts) - min(counts) <= 1


def test_silent_rows_are_silent_and_near_misses_hold_own_tokens(
    run: CodedRun, sae: CodedSAE, values_NE: np.ndarray
) -> None:
    contexts = [context(run.text, row) for row in range(run.text.n_rows)]
    for latent in LATENTS:
        silent = set(np.flatnonzero(sae.kept() & (values_NE[:, latent] == 0)).tolist())
        found = examples(run, sae, latent, "silent", ALL)
        assert {example.row for example in found} <= silent
        assert {contexts[example.row] for example in found} == {contexts[row] for row in silent}
        tokens = tokens_of(sae, run.text, latent)
        own = {row for row in silent if run.text.token_id[row] in tokens}
        near = examples(run, sae, latent, "near_miss", ALL)
        assert {contexts[example.row] for example in near} == {contexts[row] for row in own}
        assert {example.value for example in found + near} <= {0.0}
        assert len({contexts[example.row] for example in found}) == len(found)


def test_what_is_drawn_depends_on_seed_and_latent_alone(run: CodedRun, sae: CodedSAE) -> None:
    for kind in ("quantiles", "silent"):
        first = examples(run, sae, 5, kind, 10, seed=1)
        examples(run, sae, 6, kind, 10)
        assert examples(run, sae, 5, kind, 10, seed=1) == first
        assert examples(run, sae, 5, kind, 10, seed=2) != first
    assert examples(run, sae, 5, "silent", 10, seed=1) != examples(run, sae, 6, "silent", 10, seed=1)
    rows = [example.row for example in examples(run, sae, 5, "silent", 5, seed=1)]
    assert [example.row for example in examples(run, sae, 5, "silent", 10, seed=1)][:5] == rows


@pytest.mark.parametrize("n", [0, 1, 1000, 5000])
def test_an_order_is_drawn_without_repeats(n: int) -> None:
    order = list(_Draw(0, 3, "silent").order(n))
    assert sorted(order) == list(range(n))
    assert n < 2 or order != sorted(order)


def test_an_order_is_that_of_every_version() -> None:
    """By Philox's raw words, which no version of numpy changes."""
    small, large = ([*islice(_Draw(1, 5, "silent").order(n), 4)] for n in (1000, 100_000))
    assert (small, large) == (SMALL, LARGE)


SMALL, LARGE = [35, 654, 451, 345], [30802, 97523, 24973, 36784]


@pytest.mark.parametrize("pool", ["max", "mean"])
@pytest.mark.parametrize("kind", ["top", "half", "barely", "quantiles"])
def test_documents_are_pooled(run: CodedRun, sae: CodedSAE, values_NE: np.ndarray, pool: str, kind: Kind) -> None:
    kept = sae.kept()
    for latent in LATENTS:
        documents = []
        for number in np.unique(run.text.document):
            rows = np.flatnonzero(kept & (run.text.document == number))
            values = values_NE[rows, latent].astype(np.float64)
            if values.any():
                value = values.max() if pool == "max" else values.sum() / len(rows)
                documents.append((int(rows[np.lexsort((rows, -values))[0]]), float(value)))
        found = [tuple(one) for one in examples(run, sae, latent, kind, ALL, by_document=True, pool=pool)]
        if kind == "quantiles":
            assert sorted(found) == sorted(documents)
            continue
        largest = max([value for _, value in documents], default=0)
        orders = {
            "top": lambda pair: (-pair[1], pair[0]),
            "half": lambda pair, half=largest / 2: (abs(pair[1] - half), pair[0]),
            "barely": lambda pair: (pair[1], pair[0]),
        }
        expected = first_distinct(run.text, sorted(documents, key=orders[kind]), ALL)
        assert [row for row, _ in found] == [row for row, _ in expected]
        assert np.allclose([value for _, value in found], [value for _, value in expected], rtol=1e-12, atol=0)


def test_silent_documents_have_no_active_row(run: CodedRun, sae: CodedSAE, values_NE: np.ndarray) -> None:
    kept, seen = sae.kept(), 0
    for latent in range(sae.d_sae):
        fires = set(run.text.document[kept & (values_NE[:, latent] != 0)].tolist())
        for kind in ("silent", "near_miss"):
            found = examples(run, sae, latent, kind, ALL, by_document=True)
            documents = [int(run.text.document[example.row]) for example in found]
            assert len(set(documents)) == len(documents)
            assert not fires & set(documents)
            if kind == "silent":
                assert set(documents) == set(range(40)) - fires
            seen += len(found)
    assert seen


def test_nothing_of_a_latent_that_never_fires(run: CodedRun, sae: CodedSAE, monkeypatch) -> None:
    nothing = np.empty(0, np.int64), np.empty(0, np.float32)
    monkeypatch.setattr(sae.codes, "rows_of", lambda latent: nothing)
    for kind in KINDS:
        for by_document in (False, True):
            found = examples(run, sae, 0, kind, 5, by_document=by_document, pool="mean")
            # Its label is still that of the codes, so its own tokens have rows on which it is silent.
            assert len(found) == (5 if kind in ("silent", "near_miss") else 0)
    with pytest.raises(ConfigError, match="latent 48"):
        examples(run, sae, 48, "top", 1)
