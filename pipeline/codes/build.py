"""`strata codes`: the codes of every latent of a run's SAEs on every row of the store."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from strata_sae.pipeline.config import load
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.kernels.machine.compiled.postings import transposed
from strata_sae.pipeline.reading.feed import ROWS_IN_ORDER, side_by_side
from strata_sae.pipeline.reading.routes import route_in
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.trained import TrainedSAE
from strata_sae.pipeline.runs.trained import load as load_trained
from strata_sae.stores import (
    CodesPlan,
    SegmentCodes,
    Together,
    create_codes,
    finish_codes,
    missing_segments,
    write_segment,
)

log = logging.getLogger(__name__)


def build_codes(path: Path, overrides: Sequence[str] = ()) -> None:
    """Make the codes of every trained SAE of a run; what is made is skipped."""
    run = RunFolder(path)
    stores = open_store(TrainConfig.of(load(run.config, list(overrides)), run.config))
    for folder in run.trained():
        trained = load_trained(folder)
        if trained.training.status != "finished":
            continue
        plan = _plan(trained, stores)
        create_codes(folder.codes, plan)
        for segment in missing_segments(folder.codes, plan):
            write_segment(folder.codes, plan, segment, _encoded(trained, stores, plan, segment))
        finish_codes(folder.codes, plan, {})
        log.info("%s: codes of %d latents on %d rows", folder.name, plan.d_sae, plan.n_rows)


def _plan(trained: TrainedSAE, stores: Together) -> CodesPlan:
    record, route = trained.record, route_in(trained.record)
    first = stores.at(route.reads[0])
    return CodesPlan(
        store_ids={site: stores.at(site).id for site in route.reads},
        plan_id=record.plan_id,
        sae=record.fingerprint,
        weights_sha256=trained.training.sha256.weights,
        site=record.site,
        encoder="float32",
        d_sae=trained.sae.d_sae,
        n_rows=first.plan.n_rows,
    )


@torch.inference_mode()
def _encoded(trained: TrainedSAE, stores: Together, plan: CodesPlan, segment: int) -> SegmentCodes:
    reads = route_in(trained.record).reads
    first, last = plan.segment_rows(segment)
    counts, latents, values = [], [], []
    for start in range(first, last, ROWS_IN_ORDER):
        stop = min(start + ROWS_IN_ORDER, last)
        x_BM = side_by_side([stores.at(site).rows(site, start, stop) for site in reads], None, torch.device("cpu"))
        dense_BE = trained.encode(x_BM).to_dense().numpy()
        row_P, latent_P = np.nonzero(dense_BE)
        counts.append(np.bincount(row_P, minlength=stop - start))
        latents.append(latent_P.astype(np.uint32))
        values.append(dense_BE[row_P, latent_P])
    row_offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))])
    row_latent, row_value = np.concatenate(latents), np.concatenate(values)
    return SegmentCodes(row_offset, row_latent, *transposed(row_offset, row_latent, row_value, plan.d_sae))
