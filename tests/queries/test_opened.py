"""A run with codes, opened: what it says of rows is what its SAEs say."""

import numpy as np
import pytest
import torch

from strata_sae.pipeline.queries.opened import CodedRun
from support.coded_run import SITE, make, opened


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> CodedRun:
    make(folder := tmp_path_factory.mktemp("coded"))
    return opened(folder)


@pytest.mark.parametrize("name", ["topk", "wide"])
def test_codes_are_those_of_the_sae(run: CodedRun, name: str) -> None:
    sae = run.saes[f"{name}@{SITE}"]
    rows_NM = torch.from_numpy(np.array(run.stores.stores[0].rows(SITE, 0, run.text.n_rows)))
    dense_NE = sae.trained.encode(rows_NM).to_dense().numpy()
    for latent in range(sae.d_sae):
        rows, values = sae.codes.rows_of(latent)
        assert rows.tolist() == np.flatnonzero(dense_NE[:, latent]).tolist()
        assert values.tobytes() == dense_NE[rows, latent].tobytes()


def test_populations_differ_by_bos(run: CodedRun) -> None:
    sae = run.saes[f"topk@{SITE}"]
    assert sae.kept("all").all()
    assert (sae.kept() == (run.text.position > 0)).all()
