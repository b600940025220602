"""The codes are what the SAE gives for the same rows, all pairs and every bit, whatever the architecture and the cut."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from strata_sae.pipeline.codes.build import build_codes
from strata_sae.pipeline.codes.encoding import ROWS_PER_TILE
from strata_sae.pipeline.reading.document_units import document_units
from strata_sae.pipeline.reading.routes import route_in
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.row_units import RowUnits
from strata_sae.pipeline.runs.trained import TrainedSAE, load
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.stores import ActivationStore, CodesStore, Filters
from support.evaluation_folder import SITE
from support.one_thread import one_thread  # noqa: F401
from support.run_of_all_kinds import DOCUMENT_ROWS, N_ROWS, RUN, SAES, VARIANTS, WITHOUT_UNITS, at, make

SEGMENT_ROWS = 450


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make(made := tmp_path_factory.mktemp("kinds"))
    with at(made) as run:
        build_codes(run.path, n_rows_per_segment=SEGMENT_ROWS)
    return made


@torch.inference_mode()
def dense(folder: Path, trained: TrainedSAE) -> np.ndarray:
    """What `encode_inference` gives, in tiles of the same rows; zeros stand behind the last row. [N, E]."""
    store, reads = ActivationStore.open(folder / "store"), route_in(trained.record).reads
    rows = np.concatenate([store.rows(site, 0, N_ROWS) for site in reads], axis=1)
    x_NM = torch.nn.functional.pad(torch.from_numpy(rows), (0, 0, 0, -N_ROWS % ROWS_PER_TILE))
    if trained.is_per_document:
        kept = RunFolder(folder / RUN).documents(SITE)
        units = document_units(store, SITE, Filters(drop_bos=True), kept).of(np.arange(N_ROWS), torch.device("cpu"))
        padded = (torch.nn.functional.pad(part, (0, -N_ROWS % ROWS_PER_TILE)) for part in units)
        x_NM = RowUnits(*padded).apply(x_NM).nan_to_num()
    codes = [trained.sae.encode_inference(tile).to_dense() for tile in x_NM.split(ROWS_PER_TILE)]
    dense_NE = torch.cat(codes)[:N_ROWS].numpy()
    if trained.is_per_document:
        dense_NE[WITHOUT_UNITS * DOCUMENT_ROWS : (WITHOUT_UNITS + 1) * DOCUMENT_ROWS] = 0
    return dense_NE


def differs(codes: CodesStore, dense_NE: np.ndarray) -> bool:
    """Whether a pair of the codes, in either order, is not one of the matrix, or lacks there; bits are compared."""
    offsets, latents = codes.latents_of(0, N_ROWS)
    row_P, latent_P = np.nonzero(dense_NE)
    if offsets.tolist() != np.searchsorted(row_P, np.arange(N_ROWS + 1)).tolist() or not np.array_equal(latents, latent_P):
        return True
    for latent in range(dense_NE.shape[1]):
        rows, values = codes.rows_of(latent)
        expected = np.flatnonzero(dense_NE[:, latent])
        if not np.array_equal(rows, expected) or values.tobytes() != dense_NE[expected, latent].tobytes():
            return True
    return False


def test_every_architecture_is_here() -> None:
    assert {settings["architecture"] for settings in VARIANTS.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize("name", SAES)
def test_codes_are_those_of_encode_inference(folder: Path, name: str) -> None:
    sae = RunFolder(folder / RUN).variant(name)
    codes = CodesStore.open(sae.codes)
    assert codes.plan.n_segments == 3
    dense_NE = dense(folder, load(sae))
    assert 0 < codes.n_pairs == np.count_nonzero(dense_NE)
    assert not differs(codes, dense_NE)


def test_control_other_weights_and_one_other_bit_are_seen(folder: Path) -> None:
    run = RunFolder(folder / RUN)
    codes, theirs = CodesStore.open(run.variant(f"topk@{SITE}").codes), load(run.variant(f"groupmax@{SITE}"))
    assert differs(codes, dense(folder, theirs))
    changed_NE = dense(folder, load(run.variant(f"topk@{SITE}")))
    changed_NE.view(np.uint32)[tuple(np.argwhere(changed_NE)[17])] ^= 1
    assert differs(codes, changed_NE)


def test_signed_codes_keep_their_negative_values(folder: Path) -> None:
    for name in (f"two_child_signed@{SITE}", f"identity@{SITE}"):
        codes = CodesStore.open(RunFolder(folder / RUN).variant(name).codes)
        assert min(codes.rows_of(latent)[1].min(initial=0) for latent in range(codes.plan.d_sae)) < 0


def test_rows_of_documents_that_nothing_standardises_have_no_codes(folder: Path) -> None:
    codes = CodesStore.open(RunFolder(folder / RUN).variant(f"per_document@{SITE}").codes)
    first = WITHOUT_UNITS * DOCUMENT_ROWS
    offsets, _ = codes.latents_of(first - 1, first + DOCUMENT_ROWS + 1)
    assert np.flatnonzero(np.diff(offsets)).tolist() == [0, DOCUMENT_ROWS + 1]


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("segment_rows", [512, 4096])
def test_neither_threads_nor_segments_change_a_bit(
    folder: Path, tmp_path: Path, segment_rows: int, n_threads: int
) -> None:
    name = f"relu@{SITE}"
    make(tmp_path)
    torch.set_num_threads(n_threads)
    try:
        with at(tmp_path) as run:
            build_codes(run.path, only=name, n_rows_per_segment=segment_rows)
    finally:
        torch.set_num_threads(1)
    codes, others = (CodesStore.open(RunFolder(where / RUN).variant(name).codes) for where in (tmp_path, folder))
    for latent in range(codes.plan.d_sae):
        mine: Any = codes.rows_of(latent)
        assert [part.tobytes() for part in mine] == [part.tobytes() for part in others.rows_of(latent)]
