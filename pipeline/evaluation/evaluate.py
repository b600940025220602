"""Scores of every finished SAE on the held-out split: one pass over the rows per site, shared by its SAEs."""

import logging

import numpy as np
import torch
from pydantic import ValidationError

from strata_sae.pipeline.available import choose_device
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.evaluation.comparing.comparisons import compare_saes
from strata_sae.pipeline.evaluation.comparing.stability import measure_stability
from strata_sae.pipeline.evaluation.metric import definition
from strata_sae.pipeline.evaluation.metrics import METRICS
from strata_sae.pipeline.evaluation.populations import Populations
from strata_sae.pipeline.evaluation.scores import Scores
from strata_sae.pipeline.evaluation.truth.judge import judge_truth
from strata_sae.pipeline.evaluation.writing import Held, write_scores
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.reading.document_units import DocumentUnits, document_units
from strata_sae.pipeline.reading.feed import sites_of
from strata_sae.pipeline.reading.heldout_rows import heldout_rows
from strata_sae.pipeline.reading.heldout_spans import SPLIT, Wanted, heldout_spans, one_population
from strata_sae.pipeline.reading.routes import routes_of
from strata_sae.pipeline.reading.top_rows import TopRows, choose_latents
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs.chain import UNHASHED, check_examples, check_features, check_metrics, read_per_document
from strata_sae.pipeline.runs.evaluation_records import EvaluationPart, FilterPart, Metrics, Scored, StoreSummary
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.record_files import read_record, write_record
from strata_sae.pipeline.runs.row_units import RowUnits
from strata_sae.pipeline.runs.trained import TrainedSAE, finished, load
from strata_sae.stores import Together, joint_mask

log = logging.getLogger(__name__)

_OF_NO_SCORE = {"batch_size", "target_l0", "with_model", "probing", "absorption"}
"""Settings of evaluation that these scores do not depend on."""


def evaluate(config: TrainConfig, *, show_progress: bool = False) -> None:
    """Score every SAE of the run that finished training, then compare them; what is scored already is skipped.

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
        measure_stability(config)
        return
    unhashed: set[str] = set()
    for route in routes_of(config):
        held = Held(stores, route, config, device)
        todo = []
        for folder in finished(run, route.name, held.store.id):
            trained = load(folder, device)
            unhashed.update(trained.unhashed)
            if _is_scored(trained, _scored_as(trained, held)):
                log.info("%s: scored already", folder.name)
            else:
                todo.append(trained)
        if todo:
            log.info("%s: scoring %s", route.name, ", ".join(trained.folder.variant for trained in todo))
            _score(todo, held, show_progress)
    judge_truth(config, stores, run, device, show_progress=show_progress)
    if unhashed:
        log.info("%s: %s: %s", run.path, ", ".join(sorted(unhashed)), UNHASHED)
    compare_saes(config)
    measure_stability(config)


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


@torch.inference_mode()
def _score(todo: list[TrainedSAE], held: Held, show_progress: bool) -> None:
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
    populations = Populations(are_one=one_population(held.route, held.stores, held.filters))
    scored = [Scores(trained, populations) for trained in todo]
    wanted = Wanted(held.filters, settings.batch_size, settings.max_rows)
    with Progress(f"{site}: scores", n_rows, "row", shown=show_progress) as bar:
        for span in heldout_spans(held.stores, held.route, wanted, held.device):
            batch = populations.take(span)
            units = [_units(documents, part.numbers_B, held.device) for part in batch.parts]
            for scores in scored:
                scores.update(batch, units)
            bar.advance(len(span.as_trained.numbers_B))
    last = populations.last()
    for scores in scored:
        scores.finish(last)
    top = [_top_rows(scores, held) for scores in scored]
    if settings.example_latents:
        rows = (held.stores, held.route, held.filters, settings.batch_size, settings.max_rows, held.device)
        with Progress(f"{site}: examples", n_rows, "row", shown=show_progress) as bar:
            for x_BM, _, row_numbers_B in heldout_rows(*rows):
                of_rows = _units(documents, row_numbers_B.cpu().numpy(), held.device)
                for scores, kept in zip(scored, top, strict=True):
                    kept.update(scores.trained.encode(x_BM, of_rows), row_numbers_B)
                bar.advance(len(x_BM))
    for scores, kept in zip(scored, top, strict=True):
        write_scores(scores, kept, held, _scored_as(scores.trained, held), documents)


def _documents(todo: list[TrainedSAE], held: Held) -> DocumentUnits | None:
    """The units of the documents, if one of the SAEs was trained on rows standardised by them."""
    if not any(trained.is_per_document for trained in todo):
        return None
    (site,) = held.route.reads
    return document_units(held.store, site, held.filters, RunFolder(held.config.run_path()).documents(site))


def _units(documents: DocumentUnits | None, numbers_B: np.ndarray, device: torch.device) -> RowUnits | None:
    """Those of rows; of a document without any that passes training's filters they are no numbers."""
    return None if documents is None else documents.of(numbers_B, device)


def _top_rows(scores: Scores, held: Held) -> TopRows:
    settings = held.config.evaluation
    latents = choose_latents(scores.totals.active_rows_E, settings.example_latents, settings.examples_per_latent)
    return TopRows(latents, settings.examples_per_latent, scores.trained.sae.d_sae, held.device)


def _scored_as(trained: TrainedSAE, held: Held) -> Scored:
    """What the scores depend on; no definition depends on the batch size."""
    settings = held.config.evaluation
    return Scored(
        sae=trained.record.fingerprint,
        weights_sha256=trained.training.sha256.weights,
        store_id=held.store.id,
        split=SPLIT,
        filters=FilterPart.model_validate(held.filters.key()),
        evaluation=EvaluationPart.model_validate(settings.model_dump(mode="json", exclude=_OF_NO_SCORE)),
        definitions={name: definition(metric) for name, metric in METRICS.items()},
    )


def _is_scored(trained: TrainedSAE, scored_as: Scored) -> bool:
    """Whether the very scores are there. Raises: CheckpointError if they are, but not as they were written."""
    folder = trained.folder
    files = (folder.metrics, folder.features, folder.examples, folder.per_document)
    if not all(path.exists() for path in files):
        return False
    metrics, is_hashed = read_record(folder.metrics, Metrics)
    if not is_hashed:
        return False
    if metrics.sae == scored_as.sae and any(getattr(metrics, key) != wanted for key, wanted in scored_as):
        return False  # other settings, rows or weights than now
    check_metrics(folder, metrics, trained.record, trained.training)
    check_features(folder, metrics)
    check_examples(folder, metrics)
    read_per_document(folder, metrics)
    return True
