"""Scores of every finished SAE on the held-out split: one pass over the rows per site, shared by its SAEs."""

import logging
from typing import Any

import safetensors.torch
import torch

from strata_sae.pipeline.config.run import RunConfig
from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.evaluation.examples import CHOICE, TopRows, choose_latents, context
from strata_sae.pipeline.evaluation.metrics import METRICS
from strata_sae.pipeline.evaluation.population import Population
from strata_sae.pipeline.evaluation.scores import Scores, definition
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.reading.heldout_rows import heldout_rows, sites_of
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs import (
    RunFolder,
    VariantFolder,
    fingerprint,
    sha256_of,
    sync,
    write_bytes,
    write_record,
)
from strata_sae.pipeline.runs.chain import UNHASHED, check_examples, check_features, check_metrics, read_metrics
from strata_sae.pipeline.runs.trained import TrainedSAE, finished, load
from strata_sae.pipeline.tensors import choose_device
from strata_sae.stores import ActivationStore, Filters
from strata_sae.stores.front.aligned import Together
from strata_sae.stores.serving.multi_site import Sites, joint_mask

log = logging.getLogger(__name__)

SPLIT = "heldout"


def evaluate(config: RunConfig, *, show_progress: bool = False) -> None:
    """Score every SAE of the run that finished training; what is scored already is skipped.

    Raises: StoreError, ConfigError, CheckpointError.
    """
    stores = open_store(config)
    run = RunFolder(config.run_path())
    device = choose_device(config.training.device, "training.device")
    write_record(run.store, dict(stores.summary()))
    unhashed: set[str] = set()
    for route in _routes(config):
        store = stores.at(route.reads[0])
        todo = []
        for folder in finished(run, route.name, store.id):
            trained = load(folder, device)
            unhashed.update(trained.unhashed)
            if _is_scored(trained, _identity(trained, store, config)):
                log.info("%s: scored already", folder.name)
            else:
                todo.append(Scores(trained))
        if todo:
            log.info("%s: scoring %s", route.name, ", ".join(scores.trained.folder.variant for scores in todo))
            _score_site(todo, route, stores, config, device, show_progress)
    if unhashed:
        log.info("%s: %s: %s", run.path, ", ".join(sorted(unhashed)), UNHASHED)


def _routes(config: RunConfig) -> list[Route]:
    """Every site as an SAE reads it, then what other variants read and write."""
    saes = [Route((site,), (site,)) for site in config.training.sites or config.store.sites]
    return list(dict.fromkeys([*saes, *(v.route for v in config.variants.values() if v.route is not None)]))


@torch.inference_mode()
def _score_site(
    todo: list[Scores], route: Route, stores: Together, config: RunConfig, device: torch.device, show_progress: bool
) -> None:
    """Two passes over the held-out rows, each batch read once for all SAEs: scores first, then examples."""
    settings, filters = config.evaluation, _filters(config)
    site, store = route.name, stores.at(route.reads[0])
    n_rows = joint_mask(sites_of(route, stores), SPLIT, filters).n_rows
    if n_rows == 0:
        raise ConfigError(
            f"corpus.heldout_fraction: {store.path} holds no held-out row that passes training.filters; "
            "extract with a larger fraction, or filter less"
        )
    n_rows = min(n_rows, settings.max_rows or n_rows)
    rows = (stores, route, filters, settings.batch_size, settings.max_rows, device)
    population = Population(store)
    with Progress(f"{site}: scores", n_rows, "row", shown=show_progress) as bar:
        for x_BM, target_BM, row_numbers_B in heldout_rows(*rows):
            for scores in todo:
                scores.update(x_BM, target_BM)
            population.update(target_BM, row_numbers_B)
            bar.advance(len(x_BM))
    top = [_top_rows(scores, config, device) for scores in todo]
    if settings.example_latents:
        with Progress(f"{site}: examples", n_rows, "row", shown=show_progress) as bar:
            for x_BM, _, row_numbers_B in heldout_rows(*rows):
                for scores, kept in zip(todo, top, strict=True):
                    kept.update(scores.trained.sae.encode_inference(x_BM), row_numbers_B)
                bar.advance(len(x_BM))
    for scores, kept in zip(todo, top, strict=True):
        _write(scores, kept, population.record(), [(stores.at(name), name) for name in route.reads], config)


def _write(scores: Scores, top: TopRows, population: dict[str, Any], reads: Sites, config: RunConfig) -> None:
    """The three files of one SAE; metrics.json last, so its presence means scored. `reads`: the sites it reads."""
    trained, settings, store = scores.trained, config.evaluation, reads[0][0]
    folder = trained.folder
    _forget(folder)
    record = scores.record(_identity(trained, store, config), population)
    density_E = scores.latents.fired_E.double() / scores.latents.n_rows
    features = {"density": density_E.float().cpu(), "decoder_max_cosine": scores.max_cosine_E.float().cpu()}
    write_bytes(folder.features, safetensors.torch.save(features, {"fingerprint": record["fingerprint"]}))
    latents = [
        {
            "latent": latent,
            "density": float(density_E[latent]),
            "examples": [
                {"value": value} | context(reads, trained.sae, _filters(config), latent, row, settings.context_tokens)
                for row, value in found
            ],
        }
        for latent, found in top.found().items()
    ]
    choice = CHOICE.format(n=settings.examples_per_latent)
    identity = {key: record[key] for key in ("fingerprint", "store_id", "split")}
    write_record(folder.examples, {**identity, "choice": choice, "latents": latents})
    hashes = {"features": sha256_of(folder.features), "examples": sha256_of(folder.examples)}
    write_record(folder.metrics, {**record, "sha256": hashes})


def _forget(folder: VariantFolder) -> None:
    """Remove older scores first: a kill must not leave them beside features and examples of other ones."""
    if folder.metrics.exists():
        folder.metrics.unlink()
        sync(folder.path)


def _top_rows(scores: Scores, config: RunConfig, device: torch.device) -> TopRows:
    settings = config.evaluation
    latents = choose_latents(scores.latents.fired_E, settings.example_latents, settings.examples_per_latent)
    return TopRows(latents, settings.examples_per_latent, scores.trained.sae.d_sae, device)


def _identity(trained: TrainedSAE, store: ActivationStore, config: RunConfig) -> dict[str, Any]:
    """What the scores depend on. The batch size is not in it: no definition depends on it."""
    return {
        "sae": trained.record["fingerprint"],
        "weights_sha256": trained.training["sha256"]["weights"],
        "store_id": store.id,
        "split": SPLIT,
        "filters": _filters(config).key(),
        "evaluation": config.evaluation.model_dump(mode="json", exclude={"batch_size"}),
        "definitions": {name: definition(metric) for name, metric in METRICS.items()},
    }


def _is_scored(trained: TrainedSAE, identity: dict[str, Any]) -> bool:
    """Whether the very scores are there. Raises: CheckpointError if they are, but not as they were written."""
    folder = trained.folder
    if not all(path.exists() for path in (folder.metrics, folder.features, folder.examples)):
        return False
    scores = read_metrics(folder)
    if not scores.is_hashed:
        return False
    if scores.data["sae"] == identity["sae"] and scores.data["fingerprint"] != fingerprint(identity):
        return False  # other settings, rows or weights than now
    check_metrics(folder, scores.data, trained.record, trained.training)
    check_features(folder, scores.data)
    check_examples(folder, scores.data)
    return True


def _filters(config: RunConfig) -> Filters:
    return Filters(**config.training.filters.model_dump())
