"""truth.json of every finished SAE on a toy's store: two passes over the held-out rows, which its SAEs share."""

import logging
from collections import Counter

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.evaluation.truth.definitions import DEFINITIONS
from strata_sae.pipeline.evaluation.truth.recovery import Dictionary, Recovery
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.reading.feed import filters_of
from strata_sae.pipeline.reading.heldout_rows import heldout_rows
from strata_sae.pipeline.reading.routes import sae_sites_of
from strata_sae.pipeline.reading.truth import Truth, truth_of
from strata_sae.pipeline.runs.chain import check_truth
from strata_sae.pipeline.runs.evaluation_records import FilterPart
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.record_files import fingerprint, read_record, write_record
from strata_sae.pipeline.runs.trained import TrainedSAE, finished, load
from strata_sae.pipeline.runs.truth_records import MOST_CHILDREN, TruthRecord, TruthScored
from strata_sae.pipeline.saes.two_child_topk import TwoChildTopK
from strata_sae.stores import ActivationStore, Filters, Together

log = logging.getLogger(__name__)

_MOST_ROWS = 1024
"""Rows at once (count): codes are laid out in full, so more would need much memory and be no faster."""


class _Rows:
    """How many rows were read, of which documents."""

    def __init__(self, store: ActivationStore) -> None:
        self.store = store
        self.n_rows = 0
        self.documents: set[int] = set()

    def update(self, row_numbers_B: Tensor) -> None:
        """Take one batch in; batches come in plan order."""
        numbers = row_numbers_B.cpu().numpy()
        document_B = self.store.token_map("document", int(numbers[0]), int(numbers[-1]) + 1)[numbers - numbers[0]]
        self.documents.update(np.unique(document_B).tolist())
        self.n_rows += len(numbers)


class _Judged:
    """An SAE, and what is measured of it."""

    def __init__(self, trained: TrainedSAE, truth: Truth) -> None:
        sae = trained.sae
        has_children = truth.are_pairs and isinstance(sae, TwoChildTopK)
        n_parents = sae.n_parents if isinstance(sae, TwoChildTopK) and has_children else None
        ratio_E = sae.child_parent_ratio if isinstance(sae, TwoChildTopK) else None
        self.trained = trained
        self.recovery = Recovery(truth, Dictionary(sae.W_dec, n_parents, ratio_E), sae.b_dec)


def judge_truth(
    config: TrainConfig, stores: Together, run: RunFolder, device: torch.device, *, show_progress: bool = False
) -> None:
    """Hold every SAE of one site against what is true of the rows, where the store says it; what is there is skipped.

    Raises: StoreError if the truth is damaged; CheckpointError if a record is not what was written.
    """
    for site in sae_sites_of(config):
        store = stores.at(site)
        truth = truth_of(store, site)
        if truth is None:
            continue
        filters, todo = filters_of(config.training.filters), []
        for folder in finished(run, site, store.id):
            trained = load(folder, device)
            scored_as = _scored_as(trained, filters, config.evaluation.max_rows)
            if trained.is_per_document:
                log.warning(
                    "%s: no truth: it was trained on rows standardised by document, so its latents are no directions "
                    "of the toy's rows; set training.input_scale to statistics or none",
                    folder.name,
                )
            elif _is_judged(trained, scored_as):
                log.info("%s: held against the truth already", folder.name)
            else:
                todo.append((_Judged(trained, truth), scored_as))
        if todo:
            log.info("%s: the truth about %s", site, ", ".join(judged.trained.folder.variant for judged, _ in todo))
            population = _Rows(store)
            _read([judged for judged, _ in todo], truth, population, config, stores, site, device, show_progress)
            for judged, scored_as in todo:
                _write(judged, scored_as, population, truth)


@torch.inference_mode()
def _read(
    judged: list[_Judged],
    truth: Truth,
    population: _Rows,
    config: TrainConfig,
    stores: Together,
    site: str,
    device: torch.device,
    show_progress: bool,
) -> None:
    """Both passes; each batch is read once for all SAEs."""
    settings, route, filters = config.evaluation, Route((site,), (site,)), filters_of(config.training.filters)
    n_rows = min(_MOST_ROWS, settings.batch_size)
    total = stores.at(site).mask(site, "heldout", filters).n_rows
    if total == 0:
        raise ConfigError(f"toy.heldout_fraction: {stores.path} holds no held-out row that passes training.filters")
    for is_first in (True, False):
        rows = heldout_rows(stores, route, filters, n_rows, settings.max_rows, device)
        name = f"{site}: truth" if is_first else f"{site}: absorption"
        with Progress(name, min(total, settings.max_rows or total), "row", shown=show_progress) as bar:
            for x_BM, _, row_numbers_B in rows:
                amplitude_BG = truth.amplitudes(row_numbers_B.cpu().numpy(), device)
                if is_first:
                    population.update(row_numbers_B)
                for one in judged:
                    codes = one.trained.encode(x_BM)
                    codes_BE, xhat_BM = codes.to_dense(), one.trained.decode(codes)
                    if is_first:
                        one.recovery.update(x_BM, codes_BE, xhat_BM, amplitude_BG)
                    else:
                        one.recovery.follow(codes_BE, xhat_BM, amplitude_BG)
                bar.advance(len(x_BM))
        if is_first:
            for one in judged:
                one.recovery.match()


def _write(judged: _Judged, scored_as: TruthScored, population: _Rows, truth: Truth) -> None:
    recovery, children = judged.recovery, judged.recovery.children()
    measured = [child for child in children if child.status == "measured"]
    record = TruthRecord(
        **dict(scored_as),
        recovered=recovery.recovered(),
        n_children=len(children),
        child_statuses=dict(Counter(child.status for child in children)),
        n_child_rows=sum(child.n_rows for child in measured),
        n_child_rows_fired=sum(child.n_rows_fired for child in measured),
        children=sorted(children, key=lambda child: (-child.n_rows, child.child))[:MOST_CHILDREN],
        n_rows=population.n_rows,
        n_documents=len(population.documents),
        n_features=truth.n_features,
        n_features_on=recovery.n_features_on,
        n_latents=judged.trained.sae.d_sae,
        fingerprint=fingerprint(scored_as.model_dump(mode="json")),
    )
    write_record(judged.trained.folder.truth, record)


def _scored_as(trained: TrainedSAE, filters: Filters, max_rows: int | None) -> TruthScored:
    return TruthScored(
        sae=trained.record.fingerprint,
        weights_sha256=trained.training.sha256.weights,
        store_id=trained.record.store_id,
        split="heldout",
        population="as_trained",
        filters=FilterPart.model_validate(filters.key()),
        max_rows=max_rows,
        definitions={name: f"{unit}: {text}" for name, (unit, text) in DEFINITIONS.items()},
    )


def _is_judged(trained: TrainedSAE, scored_as: TruthScored) -> bool:
    """Whether the very numbers are there. Raises: CheckpointError if they are, but not as they were written."""
    folder = trained.folder
    if not folder.truth.exists():
        return False
    found = read_record(folder.truth, TruthRecord).record
    if found.sae == scored_as.sae and any(getattr(found, key) != wanted for key, wanted in scored_as):
        return False
    check_truth(folder, found, trained.record, trained.training)
    return True
