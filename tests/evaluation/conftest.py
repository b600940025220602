from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strata_sae.pipeline.config import RunConfig
from strata_sae.stores import ActivationStore
from support.evaluation_folder import D_MODEL, SITE, config_data, identity_weights, random_weights, write_trained


@pytest.fixture
def make_run(make_store: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A store, and a run folder with an identity SAE and a random TopK one; gives (config, store)."""
    monkeypatch.chdir(tmp_path)
    path = make_store(n_rows=4000, sites={SITE: D_MODEL})
    store = ActivationStore.open(path)
    run = Path("runs/run")
    write_trained(run, "identity", store.id, {"architecture": "relu", "d_sae": 2 * D_MODEL}, identity_weights())
    write_trained(run, "topk", store.id, {"architecture": "topk", "d_sae": 64, "k": 4}, random_weights(64, seed=1))

    def make(filters: dict[str, Any] | None = None, **evaluation: Any) -> tuple[RunConfig, ActivationStore]:
        return RunConfig.model_validate(config_data(path, evaluation, filters or {})), store

    return make
