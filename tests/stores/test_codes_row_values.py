"""The values of the latents of rows are those of their latents, however they are counted and read."""

from pathlib import Path

import numpy as np
import pytest

from strata_sae.stores import CodesStore, StoreError
from strata_sae.stores.codes import row_values, stored_segment
from support.made_codes import N_ROWS, dense_codes, made_plan, make_codes

DENSE_NE = dense_codes(made_plan())
RANGES = [(0, N_ROWS), (0, 0), (N_ROWS, N_ROWS), (499, 501), (600, 610), (598, 1001), (1233, 1234), (7, 8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codes") / "codes"
    make_codes(path)
    return path


@pytest.fixture(params=[(2048, 512, 256), (64, 512, 256), (64, 32, 256), (100, 512, 0), (1, 1, 256)], ids=str)
def codes(folder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CodesStore:
    """Latents are counted at few or many rows; values are read for one row, or for several, together."""
    least_rows, together, few_chunks = request.param
    monkeypatch.setattr(row_values, "_LEAST_ROWS", least_rows)
    monkeypatch.setattr(row_values, "_ROWS_TOGETHER", together)
    monkeypatch.setattr(row_values, "_FEW_CHUNKS", few_chunks)
    return CodesStore.open(folder, made_plan())


@pytest.mark.parametrize(("start", "stop"), RANGES)
def test_values_of_rows_are_those_of_their_latents(codes: CodesStore, start: int, stop: int) -> None:
    offsets, latents = codes.latents_of(start, stop)
    values = codes.row_values(start, stop)
    rows = start + np.repeat(np.arange(stop - start), np.diff(offsets))
    assert values.dtype == np.float32
    assert values.tobytes() == DENSE_NE[rows, latents].tobytes()
    if start == 0 and stop:  # control: the values are neither all alike nor in the order of the latents
        assert len(np.unique(values)) > N_ROWS


def test_few_counts_where_latents_are_many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of the counts is bounded: here two places in a segment of 500 rows."""
    monkeypatch.setattr(row_values, "_LEAST_ROWS", 1)
    monkeypatch.setattr(row_values, "_COUNTS_BYTES", 2 * 4 * made_plan().d_sae)
    codes = CodesStore.open(folder, made_plan())
    values = codes.row_values(480, 500)
    assert values.tolist() == [float(value) for row in DENSE_NE[480:500] for value in row[row != 0]]
    counts = stored_segment.KEPT.get((codes.stored(0).key, "counts"), tuple)
    assert [array.shape for array in counts] == [(2, made_plan().d_sae)]


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 3), (0, N_ROWS + 1)])
def test_rows_that_are_not_there_are_refused(folder: Path, start: int, stop: int) -> None:
    with pytest.raises(StoreError, match="leave 0"):
        CodesStore.open(folder, made_plan()).row_values(start, stop)


def test_more_latents_than_are_listed_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two orders of a damaged segment need not agree: what does not fit is told, and no other's value shown."""
    codes = CodesStore.open(folder, made_plan())
    segment = codes.stored(0)
    counts, latents = segment.latents_of(0, 500)
    changed = latents.copy()
    changed[:100] = 7  # a latent that is never active
    monkeypatch.setattr(segment, "latents_of", lambda start, stop, **_: (counts, changed))
    with pytest.raises(StoreError, match="more latents than are listed"):
        codes.row_values(0, 500)
