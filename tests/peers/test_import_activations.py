"""What SAELens' own runner caches becomes a store of equal rows.

dictionary_learning 0.1.0 keeps its activations in memory alone (`buffer.py`), so it leaves nothing to import. Its fork,
activault and saev are in no registry: tests/imports_activations writes what their code writes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from strata_sae.pipeline.imports.activations.import_store import Asked, import_store
from strata_sae.stores import ActivationStore, verify

pytestmark = pytest.mark.peers
HOOK, LENGTH, WIDTH, N_CONTEXTS = "blocks.1.hook_resid_post", 16, 24, 40
BATCH = 4


@pytest.fixture(params=["float32", "float16"])
def cached(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Any]:
    """The runner's folder, of several files, and the dataset that it returns."""
    from datasets import Dataset
    from sae_lens import cache_activations_runner
    from sae_lens.config import CacheActivationsRunnerConfig
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = {"n_layers": 2, "d_model": WIDTH, "n_ctx": LENGTH, "d_head": 8, "n_heads": 2, "d_vocab": 300}
    model = HookedTransformer(HookedTransformerConfig(**sizes, act_fn="relu", seed=0, device="cpu"))
    monkeypatch.setattr(cache_activations_runner, "load_model", lambda **_: model)
    ids = torch.randint(1, 300, (N_CONTEXTS, LENGTH), generator=torch.Generator().manual_seed(0))
    buffer_bytes = 3 * BATCH * LENGTH * WIDTH * torch.empty(0, dtype=getattr(torch, request.param)).element_size()
    config = CacheActivationsRunnerConfig(
        dataset_path="none",
        model_name="tiny",
        model_batch_size=BATCH,
        hook_name=HOOK,
        d_in=WIDTH,
        training_tokens=24 * LENGTH,
        context_size=LENGTH,
        new_cached_activations_path=str(tmp_path / "cached"),
        shuffle=False,
        dtype=request.param,
        device="cpu",
        buffer_size_gb=buffer_bytes / 1e9,
        prepend_bos=False,
    )
    runner = cache_activations_runner.CacheActivationsRunner(
        config, override_dataset=Dataset.from_dict({"input_ids": ids.tolist()})
    )
    return tmp_path / "cached", runner.run()


def imported(source: Path, out: Path) -> ActivationStore:
    return import_store(source, out, Asked(), announce=lambda _: None, advance=lambda _: None).store


def test_the_runners_cache_is_imported_row_by_row(cached: tuple[Path, Any], tmp_path: Path) -> None:
    path, dataset = cached
    assert len(list(path.glob("*.arrow"))) > 1
    store = imported(path, tmp_path / "store")
    assert verify(store.path, deep=True) == []
    theirs = dataset.with_format("numpy")
    n_rows = len(theirs) * LENGTH
    assert store.plan.n_rows == n_rows > 0
    stored_NM, _ = store.coded_rows(HOOK, 0, n_rows)
    assert store.plan.encoding == str(stored_NM.dtype)
    found = np.asarray(theirs[:][HOOK], stored_NM.dtype)
    np.testing.assert_array_equal(stored_NM, found.reshape(n_rows, WIDTH))
    assert np.abs(stored_NM).max() > 0
    np.testing.assert_array_equal(
        store.token_map("token_id", 0, n_rows), np.asarray(theirs[:]["token_ids"]).reshape(-1)
    )
    np.testing.assert_array_equal(store.token_map("document", 0, n_rows), np.arange(n_rows) // LENGTH)


def test_control_another_cache_is_another_store(cached: tuple[Path, Any], tmp_path: Path) -> None:
    path, _ = cached
    first = imported(path, tmp_path / "a")
    file = sorted(path.glob("*.arrow"))[0]
    data = bytearray(file.read_bytes())
    at = data.find(np.ascontiguousarray(first.coded_rows(HOOK, 0, 1)[0]).tobytes())
    assert at > 0
    data[at] ^= 1
    file.write_bytes(data)
    second = imported(path, tmp_path / "b")
    assert second.plan.id != first.plan.id
    different_N = (second.coded_rows(HOOK, 0, 32)[0] != first.coded_rows(HOOK, 0, 32)[0]).any(axis=1)
    assert different_N.tolist() == [True] + [False] * 31
