"""Ablating many latents at once, beside the loop of one latent a forward pass: the same latents, texts and numbers.

    python benchmarks/ablation.py

The loop is that of the seed's `gemma_ablate`: for each text a clean pass of the whole model, then a whole pass for each
latent that is active in the text, with the latent ablated (`strata.attach`, the error kept) and the other SAE's codes
read. Both add the same effects up, which are compared. First a tiny model of random weights, then the demo's
(SmolLM2-135M, two texts), whose passes are limited by arithmetic, not by overhead: there the gain is the layers before
and behind, which are not computed. Exit code 1 if the tiny model's ratio is below 10 or numbers differ.
"""

import contextlib
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from benchmarks.toy import met, sized
from strata_sae.pipeline.codes.build import build_codes
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.extractor.extract import extract
from strata_sae.pipeline.intervention.ablation import measured_effects
from strata_sae.pipeline.intervention.attach import attach
from strata_sae.pipeline.intervention.sequences import chosen_sequences
from strata_sae.pipeline.intervention.which_model import load_model, model_settings
from strata_sae.pipeline.language_model.inputs import Inputs
from strata_sae.pipeline.queries.asked_model import MeasuredEffects
from strata_sae.pipeline.queries.opened import CodedRun, open_coded
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.stores import ActivationStore
from support.extraction import extraction_config
from support.judged_run import put

N_LATENTS = sized(256, 16)
WANTED = 10.0


class Size(NamedTuple):
    """What is measured on."""

    name: str
    model: dict[str, Any]
    corpus: dict[str, Any]
    sites: tuple[str, str]
    """Ablated; read."""
    d_sae: int
    max_rows: int
    n_latents: int


TINY = Size(
    "a tiny model (3 layers of 32)",
    {"batch_tokens": 4096},
    {"n_tokens": 1200, "heldout_fraction": 0.5},
    ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post"),
    2 * N_LATENTS,
    sized(256, 64),
    N_LATENTS,
)
DEMO = Size(
    "SmolLM2-135M-Instruct (30 layers of 576)",
    {"path": "demo", "batch_tokens": 4096},
    {"n_tokens": 1024, "heldout_fraction": 0.5, "context_length": 128, "sources": [{"kind": "python_docs"}]},
    ("blocks.8.hook_resid_post", "blocks.14.hook_resid_post"),
    2304,
    256,
    16,
)


def make(folder: Path, size: Size) -> TrainConfig:
    """A run with two ReLU SAEs of random directions, about 32 of whose latents are active in a row."""
    changes = {"model": size.model, "corpus": size.corpus, "store": {"sites": list(size.sites)}}
    config = extraction_config(folder, **changes, training={"filters": {"drop_bos": True, "max_norm_multiple": 3.0}})
    extract(config, show_progress=False)
    data = config.model_dump(mode="json", exclude_unset=True)
    config = TrainConfig.model_validate(data | {"evaluation": {"with_model": {"max_rows": size.max_rows}}})
    store = ActivationStore.open(config.store_path())
    for seed, site in enumerate(size.sites):
        rows_NM = torch.from_numpy(store.float_rows(site, 0, store.plan.n_rows))
        generator, width = torch.Generator().manual_seed(seed), rows_NM.shape[1]
        W_dec = torch.nn.functional.normalize(torch.randn(size.d_sae, width, generator=generator), dim=1)
        pre_NE = (rows_NM @ W_dec.T)[:512].flatten()
        b_enc = torch.full((size.d_sae,), -float(pre_NE.kthvalue(round(len(pre_NE) * 0.97)).values))
        weights = {"W_enc": W_dec.clone(), "W_dec": W_dec, "b_enc": b_enc, "b_dec": torch.zeros(width)}
        put(config, "random", weights, [site])
    run = RunFolder(config.run_path())
    run.config.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
    build_codes(run.path)
    return config


def loop(config: TrainConfig, size: Size, run: CodedRun, latents: list[int]) -> tuple[float, int, np.ndarray]:
    """One latent of one text a pass. Returns: seconds, passes, effects per active row [latents, d_sae]."""
    ablator, reader = (run.saes[f"random@{site}"] for site in size.sites)
    store, kept_N = run.text.store, ablator.kept()
    settings = model_settings(config, store.plan, config.evaluation.with_model)
    model = load_model(settings, store.plan, list(size.sites)).model
    for module in model.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    total_LE = np.zeros((len(latents), reader.d_sae))
    rows_L, n_passes, began = np.zeros(len(latents)), 0, time.perf_counter()
    for span in chosen_sequences(store, size.max_rows).spans:
        ids_BS, _ = Inputs(store.plan, store.token_map, [span]).batch([span])
        where_S = torch.from_numpy(kept_N[span.start : span.stop])
        counted_N = reader.kept()[span.start : span.stop]

        def codes(ablate: list[int], ids_BS: Any = ids_BS, where_S: Any = where_S) -> tuple[Any, np.ndarray]:
            with contextlib.ExitStack() as stack, torch.inference_mode():
                changed = stack.enter_context(
                    attach(model, ablator.trained, ablate=ablate, error=True, where=where_S[None])
                )
                watched = stack.enter_context(attach(model, reader.trained, read_only=True))
                model(input_ids=ids_BS)
                return changed.codes.of(latents)[0], watched.codes.to_dense()[0].double().numpy()

        z_SL, clean_SE = codes([])
        active_SL = ((z_SL != 0) & where_S[:, None]).numpy()
        for place in np.flatnonzero(active_SL.any(0)):
            counted_S = counted_N & (active_SL[:, place].cumsum() > 0)
            total_LE[place] += (clean_SE - codes([latents[place]])[1])[counted_S].sum(0)
            rows_L[place] += active_SL[:, place].sum()
            n_passes += 1
    return time.perf_counter() - began, n_passes, total_LE / np.maximum(rows_L, 1)[:, None]


def together(config: TrainConfig, size: Size, run: CodedRun) -> tuple[float, MeasuredEffects]:
    """Many a pass. Returns: seconds without the loading of the model, which the loop does not count either."""
    ablator, reader = (run.saes[f"random@{site}"] for site in size.sites)
    measured_effects(config, ablator, reader, "as_trained", n=1)
    store = run.text.store
    began = time.perf_counter()
    load_model(model_settings(config, store.plan, config.evaluation.with_model), store.plan, list(size.sites))
    loading = time.perf_counter() - began
    began = time.perf_counter()
    found = measured_effects(config, ablator, reader, "as_trained", n=size.n_latents)
    return time.perf_counter() - began - loading, found


def measure(size: Size) -> tuple[float, bool]:
    """Print both times. Returns: their ratio, and whether the numbers are the same."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        config = make(Path(folder), size)
        run = open_coded(config.run_path())
        fast, found = together(config, size, run)
        latents = [one.latent for one in found.latents]
        slow, n_passes, effect_LE = loop(config, size, run, latents)
    place = {latent: n for n, latent in enumerate(latents)}
    looped_P = effect_LE[[place[latent] for latent in found.ablator.tolist()], found.reader]
    worst, largest = float(np.abs(looped_P - found.effect).max()), float(np.abs(found.effect).max())
    print(f"\n{size.name}: {len(latents)} latents of {size.sites[0]}, effects on {size.d_sae:,} of {size.sites[1]}")
    print(f"  {n_passes:,} pairs of a latent and a text, {found.n_sequences} texts, {found.n_rows:,} rows")
    print(f"  one latent a pass  {slow:8.2f} s   {1e3 * slow / n_passes:8.2f} ms a pair")
    print(f"  many at once       {fast:8.2f} s   {1e3 * fast / n_passes:8.2f} ms a pair")
    print(f"  ratio              {slow / fast:8.1f}")
    print(f"  largest difference {worst:.1e} of effects up to {largest:.3g}")
    return slow / fast, worst <= 1e-3 * largest


def main() -> int:
    """Measure. Returns: the exit code."""
    logging.disable(logging.WARNING)
    ratio, is_same = measure(TINY)
    passed = is_same and met(ratio >= WANTED)
    for size in sized([DEMO], []):
        passed &= measure(size)[1]
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
