"""Cross-entropy and KL of the demo model from stored rows, beside SAEBench's from whole passes over the same tokens."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.config.run import ExtractConfig, TrainConfig
from strata_sae.pipeline.extractor.extract import extract
from strata_sae.pipeline.intervention.intervene import intervene
from strata_sae.pipeline.intervention.sequences import chosen_sequences
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.judging_records import ModelMetrics
from strata_sae.pipeline.runs.record_files import read_record
from strata_sae.stores import ActivationStore, slice_store
from support.judged_run import identity, put
from support.saebench_side import Autoencoder, compared, demo_folder, hooked, losses

pytestmark = pytest.mark.peers

SITE = "blocks.8.hook_resid_post"
CONTEXT, N_ROWS = 64, 128
SPECIAL = {1, 2}
"""BOS; EOS, which is the padding, too."""


class Stored(NamedTuple):
    folder: Path
    model: Any
    contexts: list[Tensor]
    """Token ids [1, S] of the sequences that are judged."""


def config_data(store: Path) -> dict[str, Any]:
    return {
        "name": store.name,
        "model": {"path": str(demo_folder()), "device": "cpu"},
        "corpus": {
            "sources": [{"kind": "python_docs"}],
            "n_tokens": 640,
            "context_length": CONTEXT,
            "heldout_fraction": 0.4,
        },
        "store": {"path": str(store), "sites": [SITE], "encoding": "float32"},
        "training": {"n_steps": 1, "warmup_steps": 0, "device": "cpu", "filters": {"max_norm_multiple": 3.0}},
        "variants": {"any": {"sae": {"architecture": "relu", "d_sae": 8}, "objective": {"reconstruction": {}}}},
        "evaluation": {"with_model": {"max_rows": N_ROWS}},
    }


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    folder = tmp_path_factory.mktemp("demo")
    extract(ExtractConfig.model_validate(config_data(folder / "float32")), show_progress=False)
    store = ActivationStore.open(folder / "float32")
    for encoding in ("bfloat16", "int8"):
        slice_store(store, folder / encoding, encoding=encoding)
    spans = chosen_sequences(store, N_ROWS).spans
    ids = [torch.from_numpy(store.token_map("token_id", span.start, span.stop)).long()[None] for span in spans]
    return Stored(folder, hooked(demo_folder()), ids)


def judged(stored: Stored, encoding: str, weights: dict[str, Tensor], name: str = "any") -> ModelMetrics:
    config = TrainConfig.model_validate(config_data(stored.folder / encoding))
    folder: VariantFolder = put(config, name, weights, [SITE])
    intervene(config)
    return read_record(folder.model_metrics, ModelMetrics).record


def imperfect() -> dict[str, Tensor]:
    """Of each number of a row about 0.8, and some of the others."""
    weights = identity(576, 0.8)
    noise = torch.randn(weights["W_dec"].shape, generator=torch.Generator().manual_seed(0))
    return weights | {"W_dec": weights["W_dec"] + 0.002 * noise, "b_dec": weights["b_dec"] + 0.01}


class Theirs(Autoencoder):
    """A ReLU SAE by its weights."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights, self.device = weights, torch.device("cpu")
        self.cfg = SimpleNamespace(hook_name=SITE, hook_head_index=None)

    def encode(self, x: Tensor) -> Tensor:
        return torch.relu((x - self.weights["b_dec"]) @ self.weights["W_enc"].T + self.weights["b_enc"])

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.weights["W_dec"] + self.weights["b_dec"]


@pytest.fixture
def in_folder(stored: Stored, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., ModelMetrics]:
    monkeypatch.chdir(tmp_path)
    return lambda *args: judged(stored, *args)


def test_losses_are_saebenchs(stored: Stored, in_folder: Callable[..., ModelMetrics]) -> None:
    found = in_folder("float32", imperfect())
    theirs = losses(Theirs(imperfect()), stored.model, stored.contexts, SPECIAL)
    for name, (ours, its) in compared(found, theirs).items():
        print(f"{name}: {ours:.7f}, SAEBench {its:.7f}, relative {ours / its - 1:.1e}")
        assert ours == pytest.approx(its, rel=1e-4), name
    assert found.n_rows == sum(int((~torch.isin(ids, torch.tensor([1, 2]))).sum()) for ids in stored.contexts)
    assert found.n_rows < found.n_sequence_rows, "special tokens are there, and are not counted"
    kept = found.forms["population"]
    assert kept.n_replaced_rows < found.forms["saebench"].n_replaced_rows, "sinks keep their activation"
    assert (kept.with_sae.kl.value or 0.0) < (found.forms["saebench"].with_sae.kl.value or 0.0)
    other = losses(Theirs(identity(576, 0.79)), stored.model, stored.contexts[:1], SPECIAL)
    assert compared(found, other)["ce_loss_with_sae"][0] != pytest.approx(other["ce_loss_with_sae"], rel=1e-4), (
        "the control: another SAE"
    )


@pytest.mark.parametrize("encoding", ["bfloat16", "int8"])
def test_rounded_rows_of_the_demo_model(encoding: str, stored: Stored, in_folder: Callable[..., ModelMetrics]) -> None:
    exact, rounded = in_folder("float32", imperfect()), in_folder(encoding, imperfect())
    for name in ("clean", "with the SAE"):
        values = [
            (found.clean_cross_entropy if name == "clean" else found.forms["saebench"].with_sae.cross_entropy).value
            for found in (exact, rounded)
        ]
        difference = values[1] / values[0] - 1
        print(f"{encoding}: cross-entropy {name}: {values[1]:.6f}, float32 {values[0]:.6f}, {difference:.1e}")
        assert values[0] != values[1]
        assert values[1] == pytest.approx(values[0], rel=1e-3)


def test_the_identity_is_exactly_one(in_folder: Callable[..., ModelMetrics]) -> None:
    for found in in_folder("bfloat16", identity(576)).forms.values():
        assert (found.ce_recovered.value, found.kl_recovered.value, found.with_sae.kl.value) == (1.0, 1.0, 0.0)
    lost = in_folder("float32", identity(576, 0.0)).forms["population"]
    assert (lost.ce_recovered.value, lost.kl_recovered.value) == (0.0, 0.0)
