"""A run over a real small extraction, with codes, whose latents are ablated; and the loop of one latent a pass."""

import contextlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor

from strata_sae.pipeline.codes.build import build_codes
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.intervention.attach import attach
from strata_sae.pipeline.intervention.sequences import chosen_sequences
from strata_sae.pipeline.language_model.inputs import Inputs
from strata_sae.pipeline.language_model.transformers_library import quiet
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE, open_coded
from strata_sae.pipeline.reading.routes import route_in
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.stores import ActivationStore
from support.judged_run import MLP_IN, MLP_OUT, STREAM, judged_config, put, rough
from support.tiny_models import D_MODEL

EARLY, LATE = "blocks.0.hook_resid_post", "blocks.2.hook_resid_post"
ABLATED, READER = f"rough@{EARLY}", f"rough@{LATE}"
SITES = [EARLY, MLP_IN, MLP_OUT, STREAM, LATE]


def make(folder: Path, sites: Sequence[str] = SITES) -> TrainConfig:
    """A run in a folder: a ReLU SAE of 64 latents at each site, a transcoder and a crosscoder, and codes."""
    with contextlib.chdir(folder):
        return _made(folder, sites)


def _made(folder: Path, sites: Sequence[str]) -> TrainConfig:
    store, evaluation = {"sites": [*sites], "path": str(folder / "store")}, {"with_model": {"max_rows": None}}
    config = judged_config(folder, store=store, evaluation=evaluation)
    for seed, site in enumerate(sites):
        put(config, "rough", _few(config, rough(D_MODEL, seed=seed), [site]), [site])
    if {MLP_IN, MLP_OUT} <= {*sites}:
        put(config, "bridge", _few(config, rough(D_MODEL, seed=9), [MLP_IN]), [MLP_IN], [MLP_OUT])
        put(config, "cross", _few(config, rough(2 * D_MODEL, seed=8), [EARLY, LATE]), [EARLY, LATE])
    run = RunFolder(config.run_path())
    run.config.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
    build_codes(run.path)
    return config


def _few(config: TrainConfig, weights: dict[str, Tensor], sites: list[str]) -> dict[str, Tensor]:
    """The same with a bias that leaves about one latent in fourteen active in a row."""
    store = ActivationStore.open(config.store_path())
    rows = [torch.from_numpy(store.float_rows(site, 0, store.plan.n_rows)) for site in sites]
    pre_NE = torch.cat(rows, dim=1) @ weights["W_enc"].T
    return {**weights, "b_enc": torch.full_like(weights["b_enc"], -float(pre_NE.quantile(0.93)))}


@cache
def _model(path: str) -> Any:
    from transformers import AutoModelForCausalLM

    with quiet():
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


class Looped(NamedTuple):
    """What the loop found: sums of clean less ablated over counted rows, and what they are divided by."""

    effect_R: np.ndarray
    log_probability_V: np.ndarray
    kl: float
    active_rows: int
    sequences: int
    standard_error_R: np.ndarray


def one_latent_a_pass(config: TrainConfig, ablator: CodedSAE, reader: CodedSAE | None, latent: int) -> Looped:
    """The loop: for each sequence a clean pass from the tokens and one with the latent ablated by `strata.attach`.

    Rows differ from the stored ones by nothing: the store holds float32 of the same model.
    """
    model = _model(config.model.path)
    store = ablator.stores.stores[0]
    counted_N = (reader or ablator).kept()
    effects, logs, kls, rows = [], [], [], []
    for span in chosen_sequences(store, None).spans:
        ids_BS, _ = Inputs(store.plan, store.token_map, [span]).batch([span])
        ablated_S = torch.from_numpy(ablator.kept()[span.start : span.stop])
        counted_S = torch.from_numpy(counted_N[span.start : span.stop])
        seen = []
        for latents in ([], [latent]):
            with contextlib.ExitStack() as stack, torch.inference_mode():
                changed = stack.enter_context(
                    attach(model, ablator.trained, ablate=latents, error=True, where=ablated_S[None])
                )
                watched = None
                if reader is not None:
                    writes = route_in(reader.record).writes[-1]  # of a crosscoder attach wants one named
                    watched = stack.enter_context(attach(model, reader.trained, writes=writes, read_only=True))
                logits_SV = model(input_ids=ids_BS).logits[0]
                codes_SE = changed.codes.to_dense()[0] * ablated_S[:, None]
                read_SR = torch.zeros(0) if watched is None else watched.codes.to_dense()[0]
            seen.append((read_SR, logits_SV.double().log_softmax(-1)))
        active_S = codes_SE[:, latent] != 0
        if not active_S.any():
            continue
        counted_S = counted_S & (active_S.cumsum(0) > 0)
        (clean_SR, p_SV), (other_SR, q_SV) = seen
        changed_S = (clean_SR - other_SR) if reader is not None else (p_SV.exp() - q_SV.exp())
        effects.append(changed_S[counted_S].double().sum(0).numpy())
        logs.append((p_SV - q_SV)[counted_S].sum(0).numpy())
        kls.append(float((p_SV.exp() * (p_SV - q_SV))[counted_S].sum()))
        rows.append(int(active_S.sum()))
    effect_PR, rows_P = np.array(effects), np.array(rows)
    ratio_R = effect_PR.sum(0) / rows_P.sum()
    n = len(rows)
    rest_PR = effect_PR - rows_P[:, None] * ratio_R
    error_R = np.sqrt((rest_PR**2).sum(0) * n / (n - 1)) / rows_P.sum() if n > 1 else np.full(len(ratio_R), np.nan)
    return Looped(ratio_R, np.array(logs).sum(0) / rows_P.sum(), sum(kls), int(rows_P.sum()), n, error_R)


def opened(config: TrainConfig) -> CodedRun:
    """The run, opened from the working folder."""
    return open_coded(config.run_path())
