"""What the overview says of an SAE: its scores, how often its latents fire, and how many of them tokens explain."""

import logging
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.runs.chain import read_config
from strata_sae.pipeline.runs.evaluation_records import Metrics
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.record_files import read_record

log = logging.getLogger(__name__)

EXPLAINED_F1 = 0.5
"""A latent counts as explained by tokens above this F1 on documents its label was not found on: there, of the
rows that token set or latent name at least a third are named by both (F1 = 2 J / (1 + J), J the Jaccard index)."""
DENSITY_EDGES = np.linspace(-6, 0, 25)
"""log10 of the share of rows on which a latent fires: quarters of a decade from one row in a million to every row."""


class Scores(NamedTuple):
    """Of config.json and metrics.json; None for what was not measured."""

    architecture: str
    l0: float | None
    r2: float | None


class Explained(NamedTuple):
    """How far token sets predict the latents of an SAE."""

    n_latents: int
    """Explained: F1 above EXPLAINED_F1."""
    share: float
    """Of all latents, dead ones too."""
    median_f1: float | None
    """Of those that have one."""


class Firing(NamedTuple):
    """How often the latents of an SAE fire, on the rows that training's filters keep."""

    n_rows: int
    n_dead: int
    """Latents that fire on none of these rows."""
    density_counts: np.ndarray
    """Latents in each bin of DENSITY_EDGES, int64; what is rarer than the first edge is in the first."""


@lru_cache(maxsize=1024)
def scores(folder: VariantFolder) -> Scores:
    """What an SAE is and how it scored; no scores where the file is missing or of another SAE."""
    config = read_config(folder).record
    try:
        found = read_record(folder.metrics, Metrics).record if folder.metrics.exists() else None
    except CheckpointError as error:
        log.warning("%s; the overview shows no scores of it", error)
        found = None
    if found is None or found.sae != config.fingerprint:
        return Scores(config.sae.architecture, None, None)
    l0, r2 = (found.metrics.get(name) for name in ("l0", "r2_pooled"))
    return Scores(config.sae.architecture, l0.value if l0 else None, r2.value if r2 else None)


def explained(sae: CodedSAE) -> Explained | None:
    """How many latents tokens explain; None where labels are not made."""
    labels = sae.labels
    if labels is None:
        return None
    f1_E = labels.f1[~np.isnan(labels.f1)]
    n_latents = int((f1_E > EXPLAINED_F1).sum())
    return Explained(n_latents, n_latents / sae.d_sae, float(np.median(f1_E)) if len(f1_E) else None)


def firing(sae: CodedSAE) -> Firing:
    """How often latents fire."""
    count_E, n_rows = sae.codes.table["count"], int(sae.kept().sum())
    alive = count_E[count_E > 0]
    logs = np.log10(alive / max(1, n_rows)).clip(DENSITY_EDGES[0], DENSITY_EDGES[-1])
    return Firing(n_rows, int((count_E == 0).sum()), np.histogram(logs, DENSITY_EDGES)[0])
