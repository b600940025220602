"""What the calibrated threshold of a real training promises: its L0 on the calibration rows, and on other documents."""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.config.run import RunConfig
from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.reading.feed import filters_of
from strata_sae.pipeline.reading.heldout_rows import heldout_rows
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.trained import load
from strata_sae.pipeline.trainer import session
from strata_sae.pipeline.trainer.train import train
from support.small_run import SITE, run_data, store_for_training
from support.small_store import DOCUMENT_ROWS

K, CPU = 4, torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_l0_is_k_on_the_calibration_rows_and_within_three_errors_on_heldout_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    used: list[Tensor] = []
    real = session.calibrate

    def noting(sae: Any, batches: Callable[[], Iterable[Tensor]], k: float, *rest: Any) -> float:
        used.extend(x_BM.clone() for x_BM in batches())
        return real(sae, batches, k, *rest)

    monkeypatch.setattr(session, "calibrate", noting)
    batch = {"sae": {"architecture": "batch_topk", "d_sae": 64, "k": K}, "objective": {"reconstruction": {}}}
    data = run_data(store_for_training(tmp_path / "store"), {"batch": batch}, calibration_rows=2048)
    config = RunConfig.model_validate(data)
    train(config, show_progress=False)  # type: ignore[arg-type]
    folder = RunFolder(Path("runs/run")).variant(f"batch@{SITE}")

    trained = load(folder)
    raw_NM = torch.cat(used) / trained.record.input_scale
    assert len(raw_NM) == 2048
    assert abs(trained.encode(raw_NM).n_active() / len(raw_NM) / K - 1) <= 0.01
    assert abs(trained.encode(raw_NM * 1.05).n_active() / len(raw_NM) / K - 1) > 0.01, "rows 5 % longer are told apart"

    stores, site = open_store(config), Route((SITE,), (SITE,))  # type: ignore[arg-type]
    active: dict[int, int] = {}
    n_rows: dict[int, int] = {}
    for x_BM, _, numbers_B in heldout_rows(stores, site, filters_of(config.training.filters), 1, None, CPU):  # type: ignore[union-attr]
        document = int(numbers_B[0]) // DOCUMENT_ROWS
        active[document] = active.get(document, 0) + trained.encode(x_BM).n_active()
        n_rows[document] = n_rows.get(document, 0) + 1
    l0 = sum(active.values()) / sum(n_rows.values())
    residuals = [active[document] - l0 * n_rows[document] for document in active]
    n_documents = len(residuals)
    assert n_documents > 8
    variance = sum(r * r for r in residuals) * n_documents / (n_documents - 1)
    assert abs(l0 - K) <= 3 * math.sqrt(variance) / sum(n_rows.values())
