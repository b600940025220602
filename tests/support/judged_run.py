"""A run over a real small extraction, with hand-made SAEs, as far as losses with the model need it."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.extractor.extract import extract
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.judging_records import ModelMetrics
from strata_sae.pipeline.runs.record_files import read_record, with_fingerprint, write_record
from strata_sae.pipeline.runs.records import SitePart
from strata_sae.stores import ActivationStore
from support.extraction import extraction_config
from support.made_up_records import curve_line, ending, sae_record, write_lines

STREAM = "blocks.1.hook_resid_post"
MLP_IN, MLP_OUT = "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out"
SITES = [STREAM, MLP_IN, MLP_OUT, "blocks.1.mlp.hook_post"]


def judged_config(folder: Path, *, variants: dict[str, Any] | None = None, **changes: Any) -> TrainConfig:
    """A store of 600 rows in 19 sequences at `SITES`, made here, and what is to be judged on it."""
    sections = {
        "corpus": {"n_tokens": 600, "heldout_fraction": 0.4, **changes.pop("corpus", {})},
        "store": {"sites": SITES, **changes.pop("store", {})},
        "training": {"filters": {"drop_bos": True, "max_norm_multiple": 2.0}, **changes.pop("training", {})},
    }
    config = extraction_config(folder, **sections, **changes)
    if not (config.store_path() / "plan.json").exists():
        extract(config, show_progress=False)
    data = config.model_dump(mode="json", exclude_unset=True)
    if variants is not None:
        data["variants"] = variants
    return TrainConfig.model_validate(data)


def losses_of(folder: VariantFolder) -> ModelMetrics:
    """What was measured of an SAE with the model."""
    return read_record(folder.model_metrics, ModelMetrics).record


def identity(width: int, scale: float = 1.0) -> dict[str, Tensor]:
    """A ReLU SAE of 2 M latents with xhat = scale * x exactly."""
    both_EM = torch.cat([torch.eye(width), -torch.eye(width)])
    zeros = {"b_enc": torch.zeros(2 * width), "b_dec": torch.zeros(width)}
    return {"W_enc": both_EM, "W_dec": scale * both_EM, **zeros}


def rough(width: int, d_out: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """A ReLU SAE of random directions: a bad one."""
    generator = torch.Generator().manual_seed(seed)
    W_dec = torch.nn.functional.normalize(torch.randn(2 * width, d_out or width, generator=generator), dim=1)
    W_enc = torch.randn(2 * width, width, generator=generator) / width**0.5
    return {"W_enc": W_enc, "W_dec": W_dec, "b_enc": torch.zeros(2 * width), "b_dec": torch.zeros(d_out or width)}


def put(
    config: TrainConfig, name: str, weights: dict[str, Tensor], reads: list[str], writes: list[str] | None = None
) -> VariantFolder:
    """What the trainer leaves of a ReLU SAE, transcoder or crosscoder with these weights."""
    store = ActivationStore.open(config.store_path())
    route = "+".join(reads) if writes is None else f"{'+'.join(reads)}-to-{'+'.join(writes)}"
    sae = {"architecture": "relu", "d_sae": len(weights["W_dec"]), "pre_bias": writes is None}
    record = sae_record(name, route, sae, d_out=weights["W_dec"].shape[1], store_id=store.id)
    if writes is not None or len(reads) > 1:
        widths = store.plan.sites
        parts = {
            key: [SitePart(site=site, width=widths[site], scale=1.0) for site in sites]
            for key, sites in (("reads", reads), ("writes", reads if writes is None else writes))
        }
        ids = {part.site: store.id for side in parts.values() for part in side}
        changes = {**parts, "d_in": weights["W_enc"].shape[1], "store_ids": ids}
        record = with_fingerprint(record.model_copy(update=changes))
    folder = RunFolder(config.run_path()).variant(f"{name}@{route}")
    folder.path.mkdir(parents=True, exist_ok=True)
    write_record(folder.config, record)
    safetensors.torch.save_file(weights, folder.weights)
    write_lines(folder.curves, [curve_line(1)])
    write_record(folder.training, ending(folder, record, n_steps=1))
    return folder
