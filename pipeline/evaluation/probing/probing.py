"""Probes of every finished SAE on the tasks whose rows are there; the language model is not needed."""

import logging
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array, vstack

from strata_sae.pipeline.available import choose_device
from strata_sae.pipeline.config.judging import ProbingSettings
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.evaluation.comparing.spread import spread_over_seeds
from strata_sae.pipeline.evaluation.probing.classifier import ProbeScore, probe, ranked
from strata_sae.pipeline.evaluation.probing.pools import DrawnTask, Pool, Pools, pools_of, seeds_of
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.reading.document_units import document_units
from strata_sae.pipeline.reading.feed import filters_of
from strata_sae.pipeline.reading.labelled import LabelledRows
from strata_sae.pipeline.reading.probing_texts import text_stores
from strata_sae.pipeline.reading.routes import routes_of
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs.chain import read_probing
from strata_sae.pipeline.runs.evaluation_records import FilterPart
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.probing_records import Probe, ProbedAs, ProbingRecord, Scores, Task, TaskLeftOut
from strata_sae.pipeline.runs.record_files import fingerprint, read_record, write_record
from strata_sae.pipeline.runs.trained import TrainedSAE, finished, load
from strata_sae.stores import Together

log = logging.getLogger(__name__)

DEFINITION = (
    "last token of a text, or a token of the held-out split; codes over their mean over active rows + 1e-6, to rank "
    "latents by |difference of class means| alone; logistic regression on the first k as they are, C of logspace(5, "
    "-5, 10) by AUC on the last min(20 %, 100) training rows, fitted again to all; version 1"
)
_SPLIT = "heldout"


def probe_saes(config: TrainConfig, *, show_progress: bool = False) -> None:
    """Write probing.json of every SAE of the run that finished training; what is probed already is skipped.

    A task that cannot be probed is left out, with the reason in the record.
    Raises: StoreError, ConfigError, CheckpointError.
    """
    settings = config.evaluation.probing
    if settings is None:
        return
    stores = open_store(config)
    run = RunFolder(config.run_path())
    device = choose_device(config.training.device, "training.device")
    texts = text_stores(config, settings, stores.stores[0])
    for route in routes_of(config):
        store_id = stores.at(route.reads[0]).id
        todo = []
        for folder in finished(run, route.name, store_id):
            trained = load(folder, device)
            probed_as = _probed_as(trained, config, settings, texts, store_id)
            if _is_probed(trained, probed_as):
                log.info("%s: probed already", folder.name)
            else:
                todo.append((trained, probed_as))
        if todo:
            log.info("%s: probing %s", route.name, ", ".join(trained.folder.variant for trained, _ in todo))
            found = pools_of(route, texts, stores, config, settings, device)
            _probe(todo, found, _Work(config, settings, stores, route), show_progress)


class _Work(NamedTuple):
    config: TrainConfig
    settings: ProbingSettings
    stores: Together
    route: Route


def _probe(todo: list[tuple[TrainedSAE, ProbedAs]], found: Pools, work: _Work, show_progress: bool) -> None:
    """The raw rows first, once for all SAEs of the route; then each SAE, and its record when all its tasks are done."""
    n_tasks = sum(len(pool.tasks) for pool in found.pools)
    dense: dict[str, Scores] = {}
    with Progress(f"{work.route.name}: probes", (1 + len(todo)) * n_tasks, "task", shown=show_progress) as bar:
        for pool in found.pools:
            x_PM = pool.x_PM.cpu().numpy()
            for task in pool.tasks:
                dense[task.name] = _scores(task, [x_PM] * len(task.draws), work.settings)
                bar.advance(1)
        for trained, probed_as in todo:
            left_out, probed = dict(found.left_out), []
            for pool in found.pools:
                codes_PE = _codes(trained, pool, work)
                if codes_PE is None:
                    left_out.update({task.name: _UNSTANDARDISED for task in pool.tasks})
                    continue
                for task in pool.tasks:
                    probed.append(_of_task(task, pool, codes_PE, dense[task.name], work.settings))
                    bar.advance(1)
            _write(trained, probed_as, probed, left_out)


_UNSTANDARDISED = "the SAE was trained on rows standardised by document, and a text's row comes without its document"
_ROWS_AT_ONCE = 4096


@torch.inference_mode()
def _codes(trained: TrainedSAE, pool: Pool, work: _Work) -> csr_array | None:
    """Codes of the rows of a pool, float32 [P, E]; None where the SAE needs documents that the pool has not."""
    documents = None
    if trained.is_per_document:
        if pool.of_texts:
            return None
        (site,) = work.route.reads
        kept = RunFolder(work.config.run_path()).documents(site)
        documents = document_units(work.stores.at(site), site, filters_of(work.config.training.filters), kept)
    parts = []
    for start in range(0, len(pool.x_PM), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        x_BM, numbers_B = pool.x_PM[some], pool.numbers_P[some]
        units = None if documents is None else documents.of(numbers_B, x_BM.device)
        codes = trained.encode(x_BM, units).to_sparse()
        arrays = (codes.values_P.float(), codes.indices_P, codes.offsets)
        parts.append(csr_array(tuple(part.cpu().numpy() for part in arrays), (len(x_BM), codes.n_latents)))
    return vstack(parts, format="csr")


def _of_task(task: DrawnTask, pool: Pool, codes_PE: csr_array, dense: Scores, settings: ProbingSettings) -> Task:
    """Probes of all k and seeds on one task."""
    order = [
        ranked(torch.from_numpy(codes_PE[draw.train].toarray()), task.y_P[draw.train])[: max(settings.k_values)]
        for draw in task.draws
    ]
    probes = []
    for k in settings.k_values:
        chosen = [latents[:k].tolist() for latents in order]
        scores = _scores(task, [codes_PE[:, latents].toarray() for latents in chosen], settings)
        probes.append(Probe(k=k, scores=scores, latents=chosen))
    return Task(
        name=task.name,
        source="texts" if pool.of_texts else "tokens",
        store_id=pool.store_id,
        n_negative=task.n_each[0],
        n_positive=task.n_each[1],
        n_train=min(len(draw.train) for draw in task.draws),
        n_test=min(len(draw.test) for draw in task.draws),
        n_documents=task.n_documents,
        probes=probes,
        dense=dense,
    )


def _scores(task: DrawnTask, columns: list[np.ndarray], settings: ProbingSettings) -> Scores:
    """Of one probe for each seed; its columns [P, K]."""
    found: list[ProbeScore] = []
    for seed, draw, x_PK in zip(seeds_of(settings), task.draws, columns, strict=True):
        train, test = (np.ascontiguousarray(x_PK[rows]) for rows in draw)
        found.append(probe(train, task.y_P[draw.train], test, task.y_P[draw.test], seed))
    return Scores(
        auc=spread_over_seeds([score.auc for score in found]),
        accuracy=spread_over_seeds([score.accuracy for score in found]),
        f1=spread_over_seeds([score.f1 for score in found]),
        auc_by_seed=[score.auc for score in found],
    )


def _write(trained: TrainedSAE, probed_as: ProbedAs, probed: list[Task], left_out: dict[str, str]) -> None:
    record = ProbingRecord(
        **dict(probed_as),
        probed=probed,
        left_out=[TaskLeftOut(name=name, reason=reason) for name, reason in left_out.items()],
        fingerprint=fingerprint(probed_as.model_dump(mode="json")),
    )
    write_record(trained.folder.probing, record)


def _probed_as(
    trained: TrainedSAE, config: TrainConfig, settings: ProbingSettings, texts: dict[str, LabelledRows], store_id: str
) -> ProbedAs:
    """What the scores depend on."""
    sources = {task: texts[task].store.id if task in texts else "not there" for task in settings.tasks}
    return ProbedAs(
        sae=trained.record.fingerprint,
        weights_sha256=trained.training.sha256.weights,
        store_id=store_id,
        split=_SPLIT,
        filters=FilterPart.model_validate(filters_of(config.training.filters).key()),
        seeds=seeds_of(settings),
        k=settings.k_values,
        texts=settings.texts,
        token_rows=settings.token_rows,
        tasks=sources | dict.fromkeys(settings.token_tasks, store_id),
        definition=DEFINITION,
    )


def _is_probed(trained: TrainedSAE, probed_as: ProbedAs) -> bool:
    """Whether the very scores are there. Raises: CheckpointError if they are, but not as they were written."""
    if not trained.folder.probing.exists():
        return False
    record = read_record(trained.folder.probing, ProbingRecord).record
    if record.sae == probed_as.sae and any(getattr(record, key) != wanted for key, wanted in probed_as):
        return False  # other tasks, rows or weights than now
    read_probing(trained.folder, trained.record, trained.training)
    return True
