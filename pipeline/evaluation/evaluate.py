"""Scores of every finished SAE on the held-out split: one pass over the rows per site, shared by its SAEs."""

import logging
from dataclasses import dataclass

import safetensors.torch
import torch
from pydantic import ValidationError

from strata_sae.pipeline.available import choose_device
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.evaluation.metric import definition
from strata_sae.pipeline.evaluation.metrics import METRICS
from strata_sae.pipeline.evaluation.scores import Population, Scores, density_histogram
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.reading.context import example
from strata_sae.pipeline.reading.document_units import DocumentUnits, document_units
from strata_sae.pipeline.reading.feed import filters_of, sites_of
from strata_sae.pipeline.reading.heldout_rows import heldout_rows
from strata_sae.pipeline.reading.top_rows import CHOICE, TopRows, choose_latents
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs.chain import UNHASHED, check_examples, check_features, check_metrics
from strata_sae.pipeline.runs.evaluation_records import (
    EvaluationPart,
    Examples,
    FilterPart,
    Latent,
    MeasuredHashes,
    Metrics,
    Scored,
    StoreSummary,
)
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.record_files import fingerprint, read_record, write_record
from strata_sae.pipeline.runs.trained import TrainedSAE, finished, load
from strata_sae.stores import ActivationStore, Filters, Together, joint_mask
from strata_sae.stores.files.filesystem import sync, write_bytes
from strata_sae.stores.files.hashing import file_sha256

log = logging.getLogger(__name__)

SPLIT = "heldout"


@dataclass(frozen=True)
class Held:
    """The held-out rows of a route, and the settings they are scored with."""

    stores: Together
    route: Route
    config: TrainConfig
    device: torch.device

    @property
    def store(self) -> ActivationStore:
        """The store of the first site that is read: its id is what records name."""
        return self.stores.at(self.route.reads[0])

    @property
    def filters(self) -> Filters:
        """Rows that are left out: those that training left out."""
        return filters_of(self.config.training.filters)


def evaluate(config: TrainConfig, *, show_progress: bool = False) -> None:
    """Score every SAE of the run that finished training; what is scored already is skipped.

    Of a store without held-out rows nothing is scored, which is said: it may be a slice that somebody was given.
    Raises: StoreError, ConfigError, CheckpointError.
    """
    stores = open_store(config)
    run = RunFolder(config.run_path())
    device = choose_device(config.training.device, "training.device")
    write_record(run.store, _summary(stores))
    first, last = stores.stores[0].plan.splits[SPLIT]
    if first == last:
        log.warning(
            "%s: holds no held-out rows, so nothing is scored; they are the last rows of a store: a slice has them if "
            "it ends later, a new store if corpus.heldout_fraction is above 0",
            stores.path,
        )
        return
    unhashed: set[str] = set()
    for route in _routes(config):
        held = Held(stores, route, config, device)
        todo = []
        for folder in finished(run, route.name, held.store.id):
            trained = load(folder, device)
            unhashed.update(trained.unhashed)
            if _is_scored(trained, _scored_as(trained, held)):
                log.info("%s: scored already", folder.name)
            else:
                todo.append(Scores(trained))
        if todo:
            log.info("%s: scoring %s", route.name, ", ".join(scores.trained.folder.variant for scores in todo))
            _score(todo, held, show_progress)
    if unhashed:
        log.info("%s: %s: %s", run.path, ", ".join(sorted(unhashed)), UNHASHED)


def scores_of(run: RunFolder) -> dict[str, dict[str, float | None]]:
    """`<variant>@<site>` -> metric -> value, None where it is not defined, of every SAE of a run that is scored.

    Raises: CheckpointError if a record is not what was written.
    """
    scored = [folder for folder in run.trained() if folder.metrics.exists()]
    metrics = {folder.name: read_record(folder.metrics, Metrics).record.metrics for folder in scored}
    return {name: {metric: found.value for metric, found in of_sae.items()} for name, of_sae in metrics.items()}


def _summary(stores: Together) -> StoreSummary:
    """store.json. Raises: CheckpointError if the store's own description cannot be recorded."""
    try:
        return StoreSummary.model_validate({"siblings": {}, **stores.summary()})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{stores.path}: {key[:200]}: {first['msg']}; the store's plan is none of ours") from None


def _routes(config: TrainConfig) -> list[Route]:
    """Every site as an SAE reads it, then what other variants read and write."""
    saes = [Route((site,), (site,)) for site in config.sae_sites()]
    return list(dict.fromkeys([*saes, *(v.route for v in config.variants.values() if v.route is not None)]))


@torch.inference_mode()
def _score(todo: list[Scores], held: Held, show_progress: bool) -> None:
    """Two passes over the held-out rows, each batch read once for all SAEs: scores first, then examples."""
    settings, site = held.config.evaluation, held.route.name
    n_rows = joint_mask(sites_of(held.route, held.stores), SPLIT, held.filters).n_rows
    if n_rows == 0:
        raise ConfigError(
            f"corpus.heldout_fraction: {held.store.path} holds no held-out row that passes training.filters; "
            "extract with a larger fraction, or filter less"
        )
    n_rows = min(n_rows, settings.max_rows or n_rows)
    documents = _documents(todo, held)
    rows = (held.stores, held.route, held.filters, settings.batch_size, settings.max_rows, held.device)
    population = Population(held.store)
    with Progress(f"{site}: scores", n_rows, "row", shown=show_progress) as bar:
        for x_BM, target_BM, row_numbers_B in heldout_rows(*rows):
            units = None if documents is None else documents.of(row_numbers_B.cpu().numpy(), held.device)
            for scores in todo:
                scores.update(x_BM, target_BM, units)
            population.update(target_BM, row_numbers_B)
            bar.advance(len(x_BM))
    top = [_top_rows(scores, held) for scores in todo]
    if settings.example_latents:
        with Progress(f"{site}: examples", n_rows, "row", shown=show_progress) as bar:
            for x_BM, _, row_numbers_B in heldout_rows(*rows):
                units = None if documents is None else documents.of(row_numbers_B.cpu().numpy(), held.device)
                for scores, kept in zip(todo, top, strict=True):
                    kept.update(scores.trained.encode(x_BM, units), row_numbers_B)
                bar.advance(len(x_BM))
    for scores, kept in zip(todo, top, strict=True):
        _write(scores, kept, population, held, documents)


def _documents(todo: list[Scores], held: Held) -> DocumentUnits | None:
    """The units of the documents, if one of the SAEs was trained on rows standardised by them."""
    if not any(scores.trained.is_per_document for scores in todo):
        return None
    (site,) = held.route.reads
    return document_units(held.store, site, held.filters, RunFolder(held.config.run_path()).documents(site))


def _top_rows(scores: Scores, held: Held) -> TopRows:
    settings = held.config.evaluation
    latents = choose_latents(scores.latents.active_rows_E, settings.example_latents, settings.examples_per_latent)
    return TopRows(latents, settings.examples_per_latent, scores.trained.sae.d_sae, held.device)


def _write(scores: Scores, top: TopRows, population: Population, held: Held, documents: DocumentUnits | None) -> None:
    """The three files of one SAE; metrics.json last, so its presence means scored."""
    trained, settings = scores.trained, held.config.evaluation
    folder, scored_as = trained.folder, _scored_as(trained, held)
    identity, density_E = fingerprint(scored_as.model_dump(mode="json")), scores.density_E()
    if folder.metrics.exists():  # a kill must not leave older scores beside features and examples of these
        folder.metrics.unlink()
        sync(folder.path)
    features = {
        "density": density_E.float().cpu(),
        "decoder_max_cosine": scores.weights.decoder_max_cosine_E.float().cpu(),
        "encoder_max_cosine": scores.weights.encoder_max_cosine_E.float().cpu(),
    }
    write_bytes(folder.features, safetensors.torch.save(features, {"fingerprint": identity}))
    reads = [(held.stores.at(site), site) for site in held.route.reads]
    latents = [
        Latent(
            latent=latent,
            density=float(density_E[latent]),
            examples=[
                example(reads, trained, held.filters, latent, row, value, settings.context_tokens, documents)
                for row, value in found
            ],
        )
        for latent, found in top.found().items()
    ]
    examples = Examples(
        fingerprint=identity,
        store_id=held.store.id,
        split=SPLIT,
        choice=CHOICE.format(n=settings.examples_per_latent),
        latents=latents,
    )
    write_record(folder.examples, examples)
    metrics = Metrics(
        **dict(scored_as),
        metrics=scores.measured(),
        density_histogram=density_histogram(scores.latents.active_rows_E, population.n_rows),
        n_rows=population.n_rows,
        n_documents=len(population.documents),
        top_percent_square_share=population.top_percent_square_share(),
        fingerprint=identity,
        sha256=MeasuredHashes(features=file_sha256(folder.features), examples=file_sha256(folder.examples)),
    )
    write_record(folder.metrics, metrics)


def _scored_as(trained: TrainedSAE, held: Held) -> Scored:
    """What the scores depend on; no definition depends on the batch size, and only the report on the target L0."""
    settings = held.config.evaluation
    return Scored(
        sae=trained.record.fingerprint,
        weights_sha256=trained.training.sha256.weights,
        store_id=held.store.id,
        split=SPLIT,
        filters=FilterPart.model_validate(held.filters.key()),
        evaluation=EvaluationPart.model_validate(settings.model_dump(mode="json", exclude={"batch_size", "target_l0"})),
        definitions={name: definition(metric) for name, metric in METRICS.items()},
    )


def _is_scored(trained: TrainedSAE, scored_as: Scored) -> bool:
    """Whether the very scores are there. Raises: CheckpointError if they are, but not as they were written."""
    folder = trained.folder
    if not all(path.exists() for path in (folder.metrics, folder.features, folder.examples)):
        return False
    metrics, is_hashed = read_record(folder.metrics, Metrics)
    if not is_hashed:
        return False
    if metrics.sae == scored_as.sae and any(getattr(metrics, key) != wanted for key, wanted in scored_as):
        return False  # other settings, rows or weights than now
    check_metrics(folder, metrics, trained.record, trained.training)
    check_features(folder, metrics)
    check_examples(folder, metrics)
    return True
