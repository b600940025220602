"""SAEs and transcoders of every architecture that other libraries have, trained for a moment on rows of the demo."""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config.run import ExtractConfig
from strata_sae.pipeline.extractor.extract import extract
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.trainer.train import train
from strata_sae.stores import ActivationStore
from support.saebench_side import demo_folder

SITE, WRITES = "blocks.8.hook_resid_post", "blocks.8.hook_mlp_out"
N_ROWS, N_COMPARED = 4608, 4096
L1 = {"reconstruction": {}, "l1": {"weight": 0.03}}
PLAIN: dict[str, Any] = {"reconstruction": {}}


def variant(architecture: str, objective: dict[str, Any], *, route: bool = False, **sae: Any) -> dict[str, Any]:
    made = {"sae": {"architecture": architecture, "d_sae": 768, **sae}, "objective": objective}
    if not route:
        return made
    made["sae"] |= {"pre_bias": False, "initial": {"encoder": "independent"}}
    return {**made, "reads": [SITE], "writes": [WRITES]}


VARIANTS: dict[str, dict[str, Any]] = {
    "relu": variant("relu", L1),
    "relu_tied": variant("relu", L1, tied=True),
    "gated": variant("gated", {**L1, "gated_auxiliary": {}}, initial={"b_dec": "zero"}),
    "topk": variant("topk", PLAIN, k={"start": 64, "end": 16}),
    "topk_by_threshold": variant("topk", PLAIN, k=16, inference="threshold"),
    "topk_by_contribution": variant("topk", PLAIN, k=16, decoder="free", rank_by="contribution"),
    "orthogonal": variant("topk", {**PLAIN, "orthogonality": {"weight": 0.01, "threshold": 0.2}}, k=16),
    "batch_topk": variant("batch_topk", PLAIN, k=16),
    "batch_topk_by_k": variant("batch_topk", PLAIN, k=16, inference="k"),
    "matryoshka": variant("batch_topk", {"prefix_reconstruction": {}}, k=16),
    "jump_relu": variant("jump_relu", {**PLAIN, "l0": {"target": 32}}),
    "groupmax": variant("groupmax", PLAIN, k=16),
    "relu_transcoder": variant("relu", L1, route=True),
    "jump_relu_transcoder": variant("jump_relu", {**PLAIN, "l0": {"target": 32}}, route=True),
    "batch_topk_transcoder": variant("batch_topk", PLAIN, route=True, k=16),
    "topk_transcoder": variant("topk", PLAIN, route=True, k=16),
    "groupmax_transcoder": variant("groupmax", PLAIN, route=True, k=16),
}


class DemoRun(NamedTuple):
    folder: Path
    """Holds the store and runs/demo."""
    config: RunConfig
    rows_NM: Tensor
    """N_COMPARED rows of SITE, those of BOS and of attention sinks included."""

    def address(self, name: str) -> Path:
        """Of an SAE or transcoder of VARIANTS."""
        route = f"{SITE}-to-{WRITES}" if "reads" in VARIANTS[name] else SITE
        return self.folder / "runs/demo" / f"{name}@{route}"


def make(folder: Path) -> DemoRun:
    """Extract and train in a folder."""
    data = {
        "name": "demo",
        "model": {"path": str(demo_folder()), "device": "cpu", "dtype": "float32"},
        "corpus": {
            "sources": [{"kind": "python_docs"}],
            "n_tokens": N_ROWS,
            "context_length": 64,
            "heldout_fraction": 0.3,
        },
        "store": {"path": str(folder / "store"), "sites": [SITE, WRITES], "encoding": "float32"},
        "training": {
            "n_steps": 15,
            "warmup_steps": 2,
            "batch_size": 256,
            "window_rows": 4096,
            "calibration_rows": 2048,
            "device": "cpu",
            "sites": [SITE],
            "filters": {"max_norm_multiple": 3.0},
        },
        "variants": VARIANTS,
        "evaluation": {"with_model": {"max_rows": 128}},
    }
    extract(ExtractConfig.model_validate(data), show_progress=False)
    config = RunConfig.model_validate(data)
    with contextlib.chdir(folder):
        train(config, show_progress=False)
    assert len(RunFolder(folder / "runs/demo").trained()) == len(VARIANTS)
    rows = ActivationStore.open(folder / "store").rows(SITE, 0, N_COMPARED)
    return DemoRun(folder, config, torch.from_numpy(rows))
