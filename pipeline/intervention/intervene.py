"""Losses of the language model with each SAE's reconstruction in the place of stored rows: one pass a route for all."""

import logging
from collections.abc import Iterator
from typing import NamedTuple

from strata_sae.pipeline.config.judging import WithModelSettings
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.intervention.judged_rows import JudgedRows
from strata_sae.pipeline.intervention.model_losses import model_metrics
from strata_sae.pipeline.intervention.passes import Passes
from strata_sae.pipeline.intervention.sequences import SPLIT, chosen_sequences
from strata_sae.pipeline.intervention.spliced import ABLATIONS, measure
from strata_sae.pipeline.intervention.which_model import load_model, model_settings, recorded_model
from strata_sae.pipeline.language_model.splice import WholeModel
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.reading.document_units import document_units
from strata_sae.pipeline.reading.feed import filters_of
from strata_sae.pipeline.reading.routes import routes_of
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs.chain import read_model_metrics
from strata_sae.pipeline.runs.evaluation_records import FilterPart
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.judging_records import JudgedModel, LossesScored
from strata_sae.pipeline.runs.record_files import write_record
from strata_sae.pipeline.runs.trained import TrainedSAE, finished, load
from strata_sae.stores import ActivationStore, Together

log = logging.getLogger(__name__)

LOGITS_BYTES = 2**28
"""Log-probabilities of a batch that are in memory while its passes run (bytes): 1,365 tokens of 49,152 words."""


class _Work(NamedTuple):
    """The SAEs of a route whose losses are not measured yet, and what their records will say they depend on."""

    route: Route
    store: ActivationStore
    todo: dict[VariantFolder, LossesScored]


def intervene(config: TrainConfig, *, show_progress: bool = False) -> None:
    """Measure every finished SAE of the run that is not measured yet. What cannot be spliced is named in a line.

    Raises: ConfigError where the store's rows are of no model, or the model is not there or another one; StoreError,
        CheckpointError.
    """
    stores = open_store(config)
    settings = config.evaluation.with_model or WithModelSettings()
    plan = stores.stores[0].plan
    first, last = plan.splits[SPLIT]
    if first == last:
        log.warning("%s: holds no held-out rows, so no loss of the model is measured", stores.path)
        return
    work = list(_to_do(config, settings, stores, recorded_model(plan, settings)))
    if not work:
        return
    language_model = model_settings(config, plan, settings)
    chosen = chosen_sequences(stores.stores[0], settings.max_rows)
    log.info(
        "with the model: %s rows in %d whole sequences, of %d of the %d held-out documents",
        f"{chosen.n_rows:,}",
        len(chosen.spans),
        len(chosen.documents),
        chosen.n_heldout_documents,
    )
    whole = load_model(language_model, plan, list(dict.fromkeys(one.route.writes[0] for one in work)))
    batch_tokens = min(language_model.batch_tokens, max(1, LOGITS_BYTES // (4 * _n_words(whole))))
    for one in work:
        rows = JudgedRows(stores, one.route, filters_of(config.training.filters), chosen, batch_tokens, whole.device)
        _measure(one, rows, Passes(whole, one.route.writes[0]), config, settings, show_progress)


def _to_do(config: TrainConfig, settings: WithModelSettings, stores: Together, model: JudgedModel) -> Iterator[_Work]:
    """The routes with SAEs to measure."""
    for route in routes_of(config):
        store, todo = stores.at(route.reads[0]), {}
        for folder in finished(RunFolder(config.run_path()), route.name, store.id):
            if len(route.writes) > 1:
                why = f"it writes {len(route.writes)} sites at once, and a forward pass goes on from one"
                log.warning("%s: not measured with the model: %s", folder.name, why)
                continue
            trained = load(folder)
            scored_as = LossesScored(
                sae=trained.record.fingerprint,
                weights_sha256=trained.training.sha256.weights,
                store_id=store.id,
                split=SPLIT,
                filters=FilterPart.model_validate(filters_of(config.training.filters).key()),
                model=model,
                max_rows=settings.max_rows,
                form_names=settings.forms,
            )
            if _is_measured(trained, scored_as):
                log.info("%s: measured with the model already", folder.name)
            else:
                todo[folder] = scored_as
        if todo:
            yield _Work(route, store, todo)


def _measure(
    work: _Work, rows: JudgedRows, passes: Passes, config: TrainConfig, settings: WithModelSettings, show_progress: bool
) -> None:
    """The losses of a route's SAEs, and their records."""
    todo = [load(folder, rows.device) for folder in work.todo]
    units = None
    if any(trained.is_per_document for trained in todo):
        (site,) = work.route.reads
        kept = RunFolder(config.run_path()).documents(site)
        units = document_units(work.store, site, filters_of(config.training.filters), kept)
    n_passes = 1 + len(settings.forms) * (len(ABLATIONS) + len(todo))
    with Progress(f"{work.route.name}: with the model", rows.n_rows * n_passes, "row", shown=show_progress) as bar:
        measured = measure(passes, rows, todo, settings.forms, units, bar)
    for folder, scored_as in work.todo.items():
        record = model_metrics(scored_as, folder.name, measured, rows, passes.begins)
        if record is None:
            log.warning("%s: its losses are not finite, so they are not recorded", folder.name)
        else:
            write_record(folder.model_metrics, record)


def _is_measured(trained: TrainedSAE, wanted: LossesScored) -> bool:
    """Whether these very losses are there. Raises: CheckpointError if they are, but not as they were written."""
    folder = trained.folder
    if not folder.model_metrics.exists():
        return False
    found = read_model_metrics(folder, trained.record, trained.training).record
    return all(getattr(found, key) == value for key, value in wanted)


def _n_words(whole: WholeModel) -> int:
    return int(whole.model.get_input_embeddings().weight.shape[0])
