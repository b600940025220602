"""A run with a hand-made SAE of every architecture and way to select, over a store of two sites with text."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml
from torch import Tensor

from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.record_files import with_fingerprint, write_record
from strata_sae.pipeline.runs.records import SitePart, TrainingPart
from strata_sae.pipeline.saes import ARCHITECTURES, initial_weights
from strata_sae.stores import Token, write_store
from support.dense_saes import SAE_SETTINGS
from support.evaluation_folder import D_MODEL, SITE, config_data
from support.made_up_records import curve_line, ending, sae_record, write_lines

OUT, D_OUT = "blocks.1.hook_mlp_out", 8
N_ROWS, DOCUMENT_ROWS = 1300, 26
"""The last tile of 512 rows is not full; the rows of a segment, in tests, are no multiple of one."""
RUN = Path("runs/run")
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {"architecture": name, "d_sae": 60, **settings} for name, settings in SAE_SETTINGS.items()},
    "identity": {"architecture": "identity", "d_sae": D_MODEL},
    "topk_threshold": {"architecture": "topk", "d_sae": 60, "k": 4, "inference": "threshold"},
    "batch_topk_k": {"architecture": "batch_topk", "d_sae": 60, "k": 4, "inference": "k"},
    "topk_contribution": {"architecture": "topk", "d_sae": 60, "k": 4, "rank_by": "contribution", "decoder": "free"},
    "topk_dense": {"architecture": "topk", "d_sae": 60, "k": 30},
    "two_child_signed": {"architecture": "two_child_topk", "d_sae": 60, "k": 4, "signed": True, "pre_bias": False},
}
ROUTES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "transcoder": ((SITE,), (OUT,)),
    "crosscoder": ((SITE, OUT), (SITE, OUT)),
}
"""What is read and written by a ReLU SAE of several sites."""
OF_SITES = {"pre_bias": False, "initial": {"encoder": "independent"}}
PER_DOCUMENT = "per_document"
SAES = [f"{name}@{SITE}" for name in (*VARIANTS, PER_DOCUMENT)]
SAES += [f"transcoder@{SITE}-to-{OUT}", f"crosscoder@{SITE}+{OUT}"]
WITHOUT_UNITS = 7
"""The document of which no row passes training's filters, so that nothing standardises its rows."""


def make(folder: Path) -> Path:
    """`store` and `runs/run`. Returns: the run's folder."""
    row_N, rng = np.arange(N_ROWS), np.random.default_rng(5)
    special_N = (row_N % DOCUMENT_ROWS == 0) | (row_N // DOCUMENT_ROWS == WITHOUT_UNITS)
    tokens = {
        "token_id": np.where(special_N, 0, rng.integers(1, 30, N_ROWS)).astype(np.int32),
        "document": (row_N // DOCUMENT_ROWS).astype(np.int64),
        "position": (row_N % DOCUMENT_ROWS).astype(np.int32),
        "flags": special_N.astype(np.uint8),
    }
    rows = {SITE: rng.standard_normal((N_ROWS, D_MODEL), np.float32)}
    rows[OUT] = rng.standard_normal((N_ROWS, D_OUT), np.float32)
    vocabulary = {number: Token(f" w{number}".encode(), special=not number) for number in range(30)}
    store = write_store(folder / "store", rows, tokens=tokens, vocabulary=vocabulary)
    run = RunFolder(folder / RUN)
    for seed, (name, settings) in enumerate(VARIANTS.items()):
        write_sae(run, name, store.id, settings, random_weights(settings, seed))
    write_sae(run, PER_DOCUMENT, store.id, VARIANTS["topk"], random_weights(VARIANTS["topk"], 77), per_document=True)
    for name, (reads, writes) in ROUTES.items():
        relu = {"architecture": "relu", "d_sae": 60, **OF_SITES}
        write_sae(run, name, store.id, relu, reads=reads, writes=writes)
    data = config_data(folder / "store", {}, {"drop_bos": True})
    data["store"]["sites"] = [SITE, OUT]
    data["training"]["sites"] = [SITE]
    run.config.write_text(yaml.safe_dump(data), encoding="utf-8")
    return run.path


def random_weights(
    settings: dict[str, Any], seed: int, d_out: int = D_MODEL, d_in: int | None = None
) -> dict[str, Tensor]:
    """Weights as a trained SAE's file holds them, with a threshold where one is kept beside the parameters."""
    architecture, generator = ARCHITECTURES[settings["architecture"]], torch.Generator().manual_seed(seed)
    weights = initial_weights(architecture.Settings(**settings), d_out, generator, d_in)
    for name, tensor in weights.items():
        if name.startswith(("b_", "r_")) and settings["architecture"] != "identity":
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    if settings.get("inference") == "threshold" or settings["architecture"] == "batch_topk":
        weights["threshold"] = torch.tensor(0.9, dtype=torch.float64)
    return weights


def write_sae(
    run: RunFolder,
    name: str,
    store_id: str,
    settings: dict[str, Any],
    weights: dict[str, Tensor] | None = None,
    *,
    reads: tuple[str, ...] = (SITE,),
    writes: tuple[str, ...] = (SITE,),
    per_document: bool = False,
    diverged: bool = False,
) -> VariantFolder:
    """What the trainer leaves of one SAE."""
    width = {SITE: D_MODEL, OUT: D_OUT}
    d_in, d_out = (sum(width[site] for site in sites) for sites in (reads, writes))
    is_sae = reads == writes == (SITE,)
    site = SITE if is_sae else "+".join(reads) if reads == writes else f"{'+'.join(reads)}-to-{'+'.join(writes)}"
    folder = run.variant(f"{name}@{site}")
    record = sae_record(name, site, settings, d_out=d_out, store_id=store_id)
    scale: Any = "per_document" if per_document else "statistics"
    training = TrainingPart(**{**record.training.model_dump(), "input_scale": scale})
    changes: dict[str, Any] = {"training": training}
    if not is_sae:
        parts = [[SitePart(site=one, width=width[one], scale=1.0) for one in sites] for sites in (reads, writes)]
        changes |= {"reads": parts[0], "writes": parts[1], "d_in": d_in}
        changes["store_ids"] = dict.fromkeys((*reads, *writes), store_id)
    write_record(folder.config, record := with_fingerprint(record.model_copy(update=changes)))
    weights = random_weights(settings, 9, d_out, d_in) if weights is None else weights
    safetensors.torch.save_file({key: tensor.contiguous() for key, tensor in weights.items()}, folder.weights)
    write_lines(folder.curves, [curve_line(1)])
    write_record(folder.training, ending(folder, record, n_steps=1, diverged_at_step=1 if diverged else None))
    return folder


@contextlib.contextmanager
def at(folder: Path):
    """Work in a folder: relative paths of a run's config are of it."""
    with contextlib.chdir(folder):
        yield RunFolder(folder / RUN)
