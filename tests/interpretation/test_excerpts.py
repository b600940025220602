"""Windows of a latent are what they say, by trying every row: active or silent, apart, of the right documents."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.interpretation.excerpts import N_EXPLAIN, N_TEST, Excerpt, Excerpts, Material
from strata_sae.pipeline.interpretation.picking import SILENT
from strata_sae.pipeline.interpretation.spans import ROW_AT, WINDOW_TOKENS
from strata_sae.pipeline.queries.labels import tokens_of
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE, Text
from support.brute_labels import context, dense
from support.coded_run import SITE
from support.interpreting import DOCUMENT_ROWS, make

LATENTS = range(0, 48, 5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> CodedRun:
    return make(tmp_path_factory.mktemp("interpreted"))


@pytest.fixture(scope="module")
def sae(run: CodedRun) -> CodedSAE:
    return run.saes[f"topk@{SITE}"]


@pytest.fixture(scope="module")
def values_NE(run: CodedRun, sae: CodedSAE) -> np.ndarray:
    """Of the population: 0 on rows that training's filters leave out."""
    return dense(run, sae) * sae.kept()[:, None]


@pytest.fixture(scope="module")
def materials(run: CodedRun, sae: CodedSAE) -> list[Material]:
    excerpts = Excerpts(run, sae, 0)
    return [excerpts.of(latent) for latent in LATENTS]


def window_of(text: Text, row: int) -> range:
    """The rows of a row's window, document by document."""
    (mine,) = np.nonzero(text.document == text.document[row])
    first, last = int(mine[0]), int(mine[-1]) + 1
    start = max(first, min(row - ROW_AT, last - WINDOW_TOKENS))
    return range(start, min(start + WINDOW_TOKENS, last))


def of_kind(excerpts: list[Excerpt], kind: str) -> list[Excerpt]:
    return [excerpt for excerpt in excerpts if excerpt.kind == kind]


def test_a_window_has_the_tokens_and_values_of_its_rows(
    run: CodedRun, values_NE: np.ndarray, materials: list[Material]
) -> None:
    for material in materials:
        for excerpt in [*material.explain, *material.active, *material.silent]:
            rows = window_of(run.text, excerpt.row)
            assert excerpt.token_ids == run.text.token_id[rows.start : rows.stop].tolist()
            assert excerpt.values == values_NE[rows.start : rows.stop, material.latent].tolist()
            assert excerpt.texts == [run.text.tokens.text(token_id) for token_id in excerpt.token_ids]
            assert excerpt.document == run.text.document[excerpt.row]


def test_a_row_stands_at_three_quarters_but_at_the_ends_of_its_document(
    run: CodedRun, materials: list[Material]
) -> None:
    places = Counter(
        excerpt.row - window_of(run.text, excerpt.row).start
        for material in materials
        for excerpt in material.active
        if 24 <= run.text.position[excerpt.row] < DOCUMENT_ROWS - 8
    )
    assert set(places) == {ROW_AT}
    assert places[ROW_AT] > 100


def test_kinds_are_what_they_say(
    run: CodedRun, sae: CodedSAE, values_NE: np.ndarray, materials: list[Material]
) -> None:
    for material in materials:
        fires = values_NE[:, material.latent] != 0
        own = tokens_of(sae, run.text, material.latent)
        partners = sae.codes.table["partners"][material.latent, :5].tolist()
        for excerpt in [*material.explain, *material.active]:
            if excerpt.kind not in SILENT:
                assert fires[excerpt.row]
                assert excerpt.is_active
        for excerpt in [*material.silent, *(one for one in material.explain if one.kind in SILENT)]:
            rows = window_of(run.text, excerpt.row)
            assert not fires[rows.start : rows.stop].any()
            assert not excerpt.is_active
            assert sae.kept()[excerpt.row]
        for excerpt in of_kind(material.silent, "near_miss"):
            assert run.text.token_id[excerpt.row] in own
        for excerpt in of_kind(material.silent, "neighbour"):
            assert (values_NE[excerpt.row, partners] != 0).any()
    counts = Counter(excerpt.kind for material in materials for excerpt in material.silent)
    assert min(counts[kind] for kind in SILENT) > 20  # each kind was tried


def test_explanations_and_tests_share_neither_document_nor_text(run: CodedRun, materials: list[Material]) -> None:
    for material in materials:
        tested = [*material.active, *material.silent]
        assert {excerpt.document % 2 for excerpt in material.explain} == {0}
        assert {excerpt.document % 2 for excerpt in tested} == {1}
        explained = {context(run.text, excerpt.row) for excerpt in material.explain}
        assert explained.isdisjoint(context(run.text, excerpt.row) for excerpt in tested)


def test_windows_of_a_kind_do_not_touch_and_say_different_things(run: CodedRun, materials: list[Material]) -> None:
    for material in materials:
        top, quantiles = of_kind(material.active, "top"), of_kind(material.active, "quantiles")
        for some in (material.explain, top, quantiles, material.silent):
            rows = [row for excerpt in some for row in window_of(run.text, excerpt.row)]
            assert len(rows) == len(set(rows))
            assert len({context(run.text, excerpt.row) for excerpt in some}) == len(some)


def test_top_is_the_best_that_is_left(run: CodedRun, values_NE: np.ndarray, materials: list[Material]) -> None:
    for material in materials:
        values_N = values_NE[:, material.latent]
        (rows,) = np.nonzero((values_N != 0) & (run.text.document % 2 == 1))
        taken, seen = set[int](), {context(run.text, excerpt.row) for excerpt in material.explain}
        expected = []
        for row in sorted(rows.tolist(), key=lambda row: (-values_N[row], row)):
            window, around = window_of(run.text, row), context(run.text, row)
            if len(expected) < N_TEST["top"] and around not in seen and taken.isdisjoint(window):
                expected.append(row)
                taken.update(window)
                seen.add(around)
        assert [excerpt.row for excerpt in of_kind(material.active, "top")] == expected


def test_quantiles_come_from_all_bins(run: CodedRun, values_NE: np.ndarray, materials: list[Material]) -> None:
    for material in materials:
        values_N = values_NE[:, material.latent]
        odd = np.sort(values_N[(values_N != 0) & (run.text.document % 2 == 1)])
        found = [values_N[excerpt.row] for excerpt in of_kind(material.active, "quantiles")]
        share_of_lower_half = float((np.array(found) <= np.median(odd)).mean())
        assert 0.25 < share_of_lower_half < 0.75  # those of `top` are nearly all above it
        assert len(found) <= N_TEST["quantiles"]


def test_shares_are_those_of_counting(run: CodedRun, sae: CodedSAE, values_NE: np.ndarray) -> None:
    kept = np.flatnonzero(sae.kept()).tolist()
    windows = [window_of(run.text, row) for row in kept]
    excerpts = Excerpts(run, sae, 0)
    for latent in (0, 7, 31):
        fires = values_NE[:, latent] != 0
        material = excerpts.of(latent)
        reached = sum(bool(fires[window.start : window.stop].any()) for window in windows)
        assert material.n_active_rows == fires.sum()
        assert material.density == fires.sum() / len(kept)
        assert material.window_density == reached / len(kept)
        assert material.largest == values_NE[:, latent].max()


def test_what_is_drawn_depends_on_seed_and_latent_alone(
    run: CodedRun, sae: CodedSAE, materials: list[Material]
) -> None:
    again = Excerpts(run, sae, 0)
    assert [again.of(latent) for latent in reversed(LATENTS)] == materials[::-1]
    other = Excerpts(run, sae, 1).of(0)
    assert of_kind(other.active, "top") == of_kind(materials[0].active, "top") or other.explain != materials[0].explain
    for kind in ("zero", "near_miss", "neighbour"):
        assert of_kind(other.silent, kind) != of_kind(materials[0].silent, kind)


def test_few_and_no_windows(run: CodedRun, sae: CodedSAE, monkeypatch: pytest.MonkeyPatch) -> None:
    """A latent that fires on one row, on none, and on all."""
    codes = sae.codes
    kept = np.flatnonzero(sae.kept())
    for rows, n_explain in ((kept[kept > 300][:1], 1), (kept[:0], 0)):
        monkeypatch.setattr(codes, "rows_of", lambda latent, rows=rows: (rows, np.full(len(rows), 2.0, np.float32)))
        monkeypatch.setattr(codes, "values", lambda latent, at, rows=rows: np.isin(at, rows) * np.float32(2))
        material = Excerpts(run, sae, 0).of(0)
        n_active = sum(excerpt.is_active for excerpt in [*material.explain, *of_kind(material.active, "top")])
        assert (n_active, material.n_active_rows) == (n_explain, len(rows))
        assert len(of_kind(material.silent, "zero")) > 20
    monkeypatch.setattr(codes, "rows_of", lambda latent: (kept, np.full(len(kept), 2.0, np.float32)))
    monkeypatch.setattr(codes, "values", lambda latent, at: np.full(len(at), 2.0, np.float32))
    material = Excerpts(run, sae, 0).of(0)
    assert (material.silent, material.window_density, material.density) == ([], 1.0, 1.0)
    assert len(of_kind(material.explain, "top")) == N_EXPLAIN["top"]


def test_a_latent_that_is_none_is_refused(run: CodedRun, sae: CodedSAE) -> None:
    with pytest.raises(ConfigError, match="latents 0 to 47"):
        Excerpts(run, sae, 0).of(48)


def test_the_folder_of_the_run_is_not_written(run: CodedRun, sae: CodedSAE, tmp_path: Path) -> None:
    before = sorted(path.name for path in sae.folder.path.iterdir())
    Excerpts(run, sae, 0).of(3)
    assert sorted(path.name for path in sae.folder.path.iterdir()) == before
