"""SAEBench's losses of an exported SAE, loaded by SAELens, beside what `evaluate --with-model` measures of it here."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.export.exporting import export
from strata_sae.pipeline.intervention.intervene import intervene
from strata_sae.pipeline.intervention.sequences import chosen_sequences
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.judging_records import ModelMetrics
from strata_sae.pipeline.runs.record_files import read_record
from strata_sae.stores import ActivationStore
from support.demo_run import VARIANTS, DemoRun
from support.saebench_side import compared, demo_folder, hooked, losses

pytestmark = pytest.mark.peers

JUDGED = ("relu", "batch_topk")
SPECIAL = {1, 2}
"""BOS; EOS, which is the padding, too."""


@pytest.fixture(scope="module")
def model() -> Any:
    return hooked(demo_folder())


def exported(run: DemoRun, name: str, out: Path) -> Any:
    """As SAEBench takes it: it asks the config itself for what SAELens since version 6 keeps in the metadata."""
    from sae_lens import SAE

    sae = SAE.load_from_disk(export(run.address(name), "saelens", out))
    for key in ("hook_name", "hook_layer", "hook_head_index", "model_name"):
        setattr(sae.cfg, key, sae.cfg.metadata[key])
    return sae


def contexts(run: DemoRun) -> list[Tensor]:
    store = ActivationStore.open(run.folder / "store")
    spans = chosen_sequences(store, 128).spans
    return [torch.from_numpy(store.token_map("token_id", span.start, span.stop)).long()[None] for span in spans]


def test_its_losses_are_ours(demo_run: DemoRun, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(demo_run.folder / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    data = demo_run.config.model_dump(mode="json", exclude_unset=True)
    intervene(TrainConfig.model_validate({**data, "variants": {name: VARIANTS[name] for name in JUDGED}}))
    found = {}
    for name in JUDGED:
        folder = VariantFolder(tmp_path / "runs/demo/variants" / demo_run.address(name).name)
        found[name] = read_record(folder.model_metrics, ModelMetrics).record
        theirs = losses(exported(demo_run, name, tmp_path / name), model, contexts(demo_run), SPECIAL)
        for key, (ours, its) in compared(found[name], theirs).items():
            print(f"{name}: {key}: {ours:.7f}, SAEBench {its:.7f}, relative {ours / its - 1:.1e}")
            assert ours == pytest.approx(its, rel=1e-4), key
    other = compared(found["relu"], theirs)["ce_loss_with_sae"]
    assert other[0] != pytest.approx(other[1], rel=1e-4), "the control: another SAE"
