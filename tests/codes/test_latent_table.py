"""The table of the latents against plain loops over a dense matrix of the codes."""

from pathlib import Path

import numpy as np
import pytest

from strata_sae.pipeline.codes.build import build_codes
from strata_sae.pipeline.codes.tables import N_BINS, N_PARTNERS, N_TOP, blocks
from strata_sae.pipeline.codes import tables
from strata_sae.pipeline.kernels.machine.compiled.postings import append_rows, take_postings
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.stores import CodesStore
from support.evaluation_folder import SITE
from support.run_of_all_kinds import DOCUMENT_ROWS, N_ROWS, RUN, WITHOUT_UNITS, at, make

NAMES = [f"{name}@{SITE}" for name in ("topk", "relu", "two_child_signed")]
KEPT = (np.arange(N_ROWS) % DOCUMENT_ROWS > 0) & (np.arange(N_ROWS) // DOCUMENT_ROWS != WITHOUT_UNITS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    make(folder := tmp_path_factory.mktemp("table"))
    patch = pytest.MonkeyPatch()
    patch.setattr(tables, "_PAIRS_AT_ONCE", 700)  # some blocks of several latents, and latents that are one
    with at(folder) as run:
        for name in NAMES:
            build_codes(run.path, only=name, n_rows_per_segment=600)
    patch.undo()
    return RunFolder(folder / RUN)


def of_latent(codes: CodesStore, latent: int, kept_N: np.ndarray = KEPT) -> tuple[np.ndarray, np.ndarray]:
    rows, values = codes.rows_of(latent)
    return rows[kept_N[rows]], values[kept_N[rows]]


@pytest.mark.parametrize("name", NAMES)
def test_counts_and_moments(run: RunFolder, name: str) -> None:
    codes = CodesStore.open(run.variant(name).codes)
    table = codes.table
    for latent in range(codes.plan.d_sae):
        rows, values = of_latent(codes, latent)
        assert table["count"][latent] == len(rows)
        assert table["count_all"][latent] == len(codes.rows_of(latent)[0])
        assert table["max"][latent] == (values.max() if len(values) else 0)
        wide = values.astype(np.float64)
        assert table["mean"][latent] == pytest.approx(wide.mean() if len(values) else 0, rel=1e-12)
        assert table["mean_square"][latent] == pytest.approx((wide**2).mean() if len(values) else 0, rel=1e-12)
    assert (table["count"] < table["count_all"]).any()


@pytest.mark.parametrize("name", NAMES)
def test_top_rows_are_those_of_a_full_sort(run: RunFolder, name: str) -> None:
    codes = CodesStore.open(run.variant(name).codes)
    for latent in range(codes.plan.d_sae):
        rows, values = of_latent(codes, latent)
        order = np.lexsort((rows, -values))[:N_TOP]
        n, table = len(order), codes.table
        assert table["top_rows"][latent].tolist() == [*rows[order].tolist(), *[-1] * (N_TOP - n)]
        assert table["top_values"][latent].tolist() == [*values[order].tolist(), *[0.0] * (N_TOP - n)]


def test_ties_of_top_rows_go_by_row() -> None:
    """And a control: the same loop over the segments in the other order does not."""
    rng = np.random.default_rng(0)
    values = rng.integers(1, 4, 300).astype(np.float32)
    found = []
    for order in ((0, 1, 2), (2, 1, 0)):
        state = (np.zeros(1, np.int64), np.full(1, -np.inf, np.float32), np.zeros((1, 2)))
        top_rows, top_values = np.full((1, 32), -1), np.zeros((1, 32), np.float32)
        for part in order:
            some = slice(100 * part, 100 * part + 100)
            offsets, rows = np.array([0, 100]), np.arange(100, dtype=np.uint32)
            take_postings(100 * part, offsets, rows, values[some], np.ones(300, bool), *state, top_rows, top_values)
        found.append(top_rows[0].tolist())
    expected = np.lexsort((np.arange(300), -values))[:32].tolist()
    assert found[0] == expected
    assert found[1] != expected


@pytest.mark.parametrize("name", NAMES)
def test_histograms(run: RunFolder, name: str) -> None:
    codes = CodesStore.open(run.variant(name).codes)
    for latent in range(codes.plan.d_sae):
        values = of_latent(codes, latent)[1].astype(np.float64)
        largest = float(codes.table["max"][latent])
        bins = np.clip(np.ceil(values[values > 0] * (N_BINS / largest)).astype(int) - 1, 0, N_BINS - 1)
        assert codes.table["histogram"][latent].tolist() == np.bincount(bins, minlength=N_BINS).tolist()
    if name == f"two_child_signed@{SITE}":
        assert codes.table["histogram"].sum() < codes.table["count"].sum()


def test_partners_are_those_of_a_product(run: RunFolder) -> None:
    codes = CodesStore.open(run.variant(f"relu@{SITE}").codes)
    active_NE = np.zeros((N_ROWS, codes.plan.d_sae), np.int64)
    for latent in range(codes.plan.d_sae):
        active_NE[of_latent(codes, latent)[0], latent] = 1
    together_EE = active_NE.T @ active_NE
    np.fill_diagonal(together_EE, 0)
    nobody = 2**32 - 1
    for latent, together_E in enumerate(together_EE):
        order = [other for other in np.argsort(-together_E, kind="stable").tolist() if together_E[other]][:N_PARTNERS]
        padding = N_PARTNERS - len(order)
        assert codes.table["partners"][latent].tolist() == order + [nobody] * padding
        assert codes.table["partner_counts"][latent].tolist() == together_E[order].tolist() + [0] * padding


def test_blocks_hold_all_latents_once() -> None:
    assert blocks(np.array([3, 3, 9, 0, 1, 5, 5]), most=6) == [(0, 2), (2, 3), (3, 6), (6, 7)]
    assert blocks(np.array([0, 0]), most=6) == [(0, 2)]


@pytest.mark.parametrize("n_active", [3, 24, 25, 200])
def test_rows_are_sorted_and_zeros_dropped(n_active: int) -> None:
    """Few entries of a row are sorted by insertion, many by a sort."""
    rng = np.random.default_rng(n_active)
    latents = np.concatenate([rng.permutation(1000)[:n_active] for _ in range(5)])
    values = rng.standard_normal(5 * n_active).astype(np.float32)
    values[::3] = 0
    offsets = np.arange(0, 5 * n_active + 1, n_active)
    row_latent, row_value = np.zeros(5 * n_active + 2, np.uint32), np.zeros(5 * n_active + 2, np.float32)
    counts = np.zeros(3, np.int64)
    n = append_rows(values, latents, offsets, 1, 4, 2, row_latent, row_value, counts)
    place = 2
    for row in (1, 2, 3):
        mine, theirs = latents[offsets[row] : offsets[row + 1]], values[offsets[row] : offsets[row + 1]]
        expected = sorted((int(e), float(v)) for e, v in zip(mine, theirs, strict=True) if v != 0)
        end = place + counts[row - 1]
        assert list(zip(row_latent[place:end].tolist(), row_value[place:end].tolist(), strict=True)) == expected
        place = end
    assert n == place
