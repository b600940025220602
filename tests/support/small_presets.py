"""The variants of every file in configs/, and how they are made small."""

import json
from pathlib import Path
from typing import Any

from strata_sae.pipeline.config import RunConfig, load
from support.small_run import D_MODEL, SITE

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("configs/**/*.yaml"))
LARGEST = 192
SITES = {SITE: D_MODEL, "blocks.2.hook_mlp_out": D_MODEL // 2}
N_STEPS = 3


def loaded(path: Path) -> RunConfig:
    """A file of configs/: a whole one as it is, one of configs/variants/ added to smoke.yaml, as it is trained."""
    return load(ROOT / "configs/smoke.yaml", [], [path]) if path.parent.name == "variants" else load(path)


def smaller_sae(sae: dict[str, Any]) -> dict[str, Any]:
    """An SAE of few latents, and of as many on."""
    shrunk = D_MODEL if sae["architecture"] == "identity" else min(sae["d_sae"], LARGEST)
    k = {"k": 4, "per_child_k": 2} if isinstance(sae.get("k"), int) else {}
    if isinstance(sae.get("k"), dict):
        k = {"k": {**sae["k"], "start": min(sae["k"]["start"], 4), "end": min(sae["k"]["end"], 16)}}
    if sae.get("per_child_k") is None:
        k.pop("per_child_k", None)
    return {**sae, "d_sae": shrunk, **k}


def smaller_objective(objective: dict[str, Any]) -> dict[str, Any]:
    """The terms, those that count latents with fewer."""
    fewer: dict[str, dict[str, Any]] = {"hierarchical_topk": {"ks": [1, 2, 4]}}
    if ((objective.get("l0") or {}).get("target") or 0) > LARGEST:
        fewer["l0"] = {"target": 4.0}
    if (objective.get("prefix_reconstruction") or {}).get("ends"):
        fewer["prefix_reconstruction"] = {"ends": [LARGEST // 4, LARGEST]}
    return {
        name: {key: value for key, value in {**term, **fewer.get(name, {})}.items() if key != "term"}
        for name, term in objective.items()
    }


def small(config: RunConfig, store: Path) -> RunConfig:
    """The config with the same variants, those that are then equal once, the rest cut to what a test has time for."""
    data = {section: value for section, value in config.model_dump(mode="json").items() if value is not None}
    data.pop("toy", None)
    names = dict(zip(data["store"]["sites"], SITES, strict=False))
    for variant in data["variants"].values():
        for key in ("reads", "writes"):
            variant[key] = variant[key] and [names[site] for site in variant[key]]
        variant["sae"] = smaller_sae(variant["sae"])
        variant["objective"] = smaller_objective(variant["objective"])
        for key in ("batch_size", "warmup_steps"):
            variant["training"].pop(key, None)
        variant["match"] = None  # L0 of rows that are made up cannot be that of the preset's
    data["variants"] = _different(data["variants"])
    data["store"] |= {"path": str(store), "sites": [*SITES]}
    quick = {"sites": [SITE], "n_steps": N_STEPS, "batch_size": 32, "window_rows": 1024, "warmup_steps": 1}
    data["training"] |= {**quick, "calibration_rows": 64, "threshold_start_step": 0, "device": "cpu", "epochs": None}
    if data["training"]["heldout"] is not None:
        data["training"]["heldout"] |= {"every_steps": 1}
    return RunConfig.model_validate(data)


def _different(variants: dict[str, Any]) -> dict[str, Any]:
    """The first of each set of equal variants."""
    first: dict[str, str] = {}
    for name, variant in variants.items():
        first.setdefault(json.dumps(variant, sort_keys=True), name)
    return {name: variants[name] for name in first.values()}
