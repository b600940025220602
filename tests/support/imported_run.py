"""A run of two trained SAEs, scored, and copies of both in the made-up format, for tests that import them."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.config.run import RunConfig, TrainConfig
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from support.fake_format import NAME, copy_of, write
from support.small_run import D_MODEL, RELU, SITE, TOPK, run_data
from support.small_store import build_store

TRAINED: dict[str, Any] = {"topk": TOPK, "relu": RELU}
OUT, D_OUT = "blocks.1.hook_mlp_out", 8
"""A second site of the store, which transcoders write."""
TRANSCODER = "transcoder"


def their(name: str, **changes: Any) -> dict[str, Any]:
    """The variant that imports a folder of `theirs/`."""
    return {"from": {"format": NAME, "path": f"theirs/{name}"}, **changes}


IMPORTED: dict[str, Any] = {f"their-{name}": their(name) for name in TRAINED}


def config_of(variants: dict[str, Any], name: str = "run", **sections: Any) -> TrainConfig:
    """A run over `store`, in the working folder."""
    data = run_data(Path("store"), variants, name=name, n_steps=20, calibration_rows=128, window_rows=512)
    data["store"]["sites"] = [SITE, OUT]
    data["training"]["sites"] = [SITE]
    evaluation = {"batch_size": 64, "context_tokens": 3, "example_latents": 2, **sections.pop("evaluation", {})}
    return TrainConfig.of(RunConfig.model_validate({**data, "evaluation": evaluation, **sections}), "config.yaml")


def make(folder: Path) -> None:
    """`store`, `theirs/*` and `runs/run` with what was trained and scored."""
    folder.mkdir(parents=True, exist_ok=True)
    build_store(folder / "store", 1500, {SITE: D_MODEL, OUT: D_OUT}, chunk_bytes=64 * D_MODEL * 4, shard_bytes=2**24)
    with contextlib.chdir(folder):
        stages.train_saes(config := config_of(TRAINED))
        stages.judge_saes(config)
        for name in TRAINED:
            copy_of(folder_of(name), Path("theirs") / name, model="someone/tiny", facts={"trained_by": "someone"})
        write_transcoder(Path("theirs") / TRANSCODER)


def write_transcoder(folder: Path, **said: Any) -> Path:
    generator = torch.Generator().manual_seed(3)
    weights = {
        "W_enc": torch.randn(32, D_MODEL, generator=generator),
        "W_dec": torch.randn(32, D_OUT, generator=generator),
        "b_enc": torch.zeros(32),
        "b_dec": torch.zeros(D_OUT),
    }
    sae = {"architecture": "relu", "d_sae": 32, "pre_bias": False, "decoder": "free"}
    return write(folder, sae, weights, **{"site": SITE, "writes": OUT, **said})


def copied(made: Path, to: Path) -> Path:
    """A copy that a test may change; the store is shared. Returns: `to`, where the test works."""
    for name in ("theirs", "runs"):
        shutil.copytree(made / name, to / name)
    (to / "store").symlink_to(made / "store")
    return to


def folder_of(name: str, site: str = SITE, run: str = "run") -> VariantFolder:
    return RunFolder(Path("runs") / run).variant(f"{name}@{site}")


def said_by(path: Path) -> dict[str, Any]:
    """A JSON record without what names the SAE it is of."""
    record = json.loads(path.read_text())
    of_sae = ("self_sha256", "sae", "weights_sha256", "fingerprint", "sha256", "variant", "seconds")
    return {key: value for key, value in record.items() if key not in of_sae}
