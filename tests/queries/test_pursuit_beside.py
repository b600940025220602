"""The SAE's encoder beside gradient pursuit, on held-out rows: against sums over full matrices."""

from pathlib import Path

import numpy as np
import pytest
import torch

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.kernels.pursuit import gradient_pursuit
from strata_sae.pipeline.queries.pursuit import Sums, pursued, steps_for
from strata_sae.stores import Filters
from support import coded_run
from support.coded_run import SITE


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pursued")
    coded_run.make(folder)
    return folder


def test_sums_are_those_of_full_matrices(run_folder: Path) -> None:
    sae = coded_run.opened(run_folder).saes[f"topk@{SITE}"]
    found = pursued(sae, 10**6)
    store = sae.stores.at(SITE)
    start, stop = store.plan.splits["heldout"]
    kept = ~(store.token_map("flags", start, stop) != 0)
    x_NM = torch.from_numpy(np.asarray(store.rows(SITE, start, stop), dtype=np.float32)[kept])
    document_N = store.token_map("document", start, stop)[kept]
    assert found.n_rows_D.sum() == len(x_NM)
    assert found.centred_square == pytest.approx(float((x_NM.double() - x_NM.double().mean(0)).square().sum()))
    [(n, codes)] = gradient_pursuit(x_NM - sae.trained.sae.b_dec, sae.trained.sae.W_dec, [4])
    for sums, dense_BE in ((found.own, sae.trained.encode(x_NM).to_dense()), (found.after[n], codes.to_dense())):
        xhat_NM = dense_BE @ sae.trained.sae.W_dec + sae.trained.sae.b_dec
        error_N = (x_NM - xhat_NM).double().square().sum(1).numpy()
        for place, document in enumerate(np.unique(document_N)):
            here = document_N == document
            assert sums.error_square_D[place] == pytest.approx(error_N[here].sum(), rel=1e-5)
            assert sums.active_D[place] == int((dense_BE[torch.from_numpy(here)] != 0).sum())
    assert found.r2(found.after[4]) > found.r2(found.own)  # random weights: an encoder that was not trained loses


def test_an_interval_needs_eight_documents_and_is_that_of_a_sum(run_folder: Path) -> None:
    found = pursued(coded_run.opened(run_folder).saes[f"topk@{SITE}"], 10**6)
    gain, noise = found.gain(found.after[4])
    assert gain == pytest.approx(found.r2(found.after[4]) - found.r2(found.own))
    assert (len(found.n_rows_D), noise) == (4, None)
    own, other = (
        Sums(np.tile(sums.error_square_D, 9), np.tile(sums.active_D, 9)) for sums in (found.own, found.after[4])
    )
    _, noise = found._replace(own=own).gain(other)
    difference_D = (own.error_square_D - other.error_square_D) / found.centred_square
    assert noise == pytest.approx(1.96 * (len(difference_D) * difference_D.var(ddof=1)) ** 0.5)


def test_steps_are_the_own_l0_and_powers_of_two() -> None:
    assert steps_for(31.6) == [4, 8, 16, 32, 64]
    assert steps_for(1.2) == [1]
    assert steps_for(10_000.0) == [4, 8, 16, 32, 64, 128, 256]
    with pytest.raises(ConfigError, match=r"pursuit: the SAE has 0\.20 active latents"):
        steps_for(0.2)


def test_what_cannot_be_compared_is_refused(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sae = coded_run.opened(run_folder).saes[f"topk@{SITE}"]
    monkeypatch.setattr(type(sae.trained), "is_per_document", property(lambda _: True))
    with pytest.raises(ConfigError, match="standardised by document"):
        pursued(sae, 100)
    monkeypatch.undo()
    sae.filters = Filters(max_norm_multiple=1e-30)
    with pytest.raises(ConfigError, match="no held-out row"):
        pursued(sae, 100)
