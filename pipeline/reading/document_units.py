"""Mean and standard deviation of every document at a site: measured once from the store, then kept with the run."""

import logging
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.runs.row_units import RowUnits
from strata_sae.stores import ActivationStore, Filters, to_float32
from strata_sae.stores.files.canonical import canonical_json
from strata_sae.stores.files.filesystem import write_bytes
from strata_sae.stores.files.hashing import sha256

log = logging.getLogger(__name__)

_ROWS_PER_READ = 2**16
"""Enough that a read costs little beside the numbers that it brings: 0.6 GB in float32 at width 2304."""


class DocumentUnits:
    """The units of every row of a store at one site (see `RowUnits`).

    A document's numbers are those of its rows that pass the filters and lie in the store, in whatever split and order;
    where a document was cut, of what is left of it.
    """

    def __init__(self, starts_R: np.ndarray, mean_R: np.ndarray, factor_R: np.ndarray) -> None:
        """R runs of rows of one document: the first row of each (rising), and float64 mean and factor."""
        self.starts_R, self.mean_R, self.factor_R = starts_R, mean_R, factor_R

    def of(self, numbers_B: np.ndarray, device: torch.device) -> RowUnits:
        """The units of rows by their numbers."""
        places = np.searchsorted(self.starts_R, numbers_B, side="right") - 1
        mean_B, factor_B = (torch.from_numpy(values_R[places]).float() for values_R in (self.mean_R, self.factor_R))
        return RowUnits(mean_B.to(device), factor_B.to(device))


def document_units(store: ActivationStore, site: str, filters: Filters, kept: Path) -> DocumentUnits:
    """The units of a site's rows: from the file `kept`, if it is of this store, site and filters, else measured anew.

    Measuring reads the site once. Raises: StoreError; ConfigError if the numbers of a document do not vary.
    """
    key = canonical_json([store.id, site, filters.key()]).decode()
    found = _read(kept, key)
    if found is None:
        log.info("%s: measuring the mean and the standard deviation of every document", site)
        found = _measure(store, site, filters)
        write_bytes(kept, safetensors.numpy.save(found, {"key": key, "sha256": _hash(found)}))
    return DocumentUnits(found["starts"], found["mean"], found["factor"])


def _measure(store: ActivationStore, site: str, filters: Filters) -> dict[str, np.ndarray]:
    """Starts, means and factors of the runs of rows of one document."""
    document_N = store.token_map("document", 0, store.plan.n_rows)
    starts_R = np.flatnonzero(np.diff(document_N, prepend=document_N[0] - 1))
    document_R, place_R = np.unique(document_N[starts_R], return_inverse=True)
    n, width = len(document_R), store.plan.sites[site]
    # Deviations from the first row's mean: sums of squares of the numbers themselves lose digits where it is large.
    count, first, total, square = np.zeros(n), np.full(n, np.nan), np.zeros(n), np.zeros(n)
    for split in store.plan.splits:
        for rows, numbers in store.in_order(site, split, filters, _ROWS_PER_READ):
            rows_BM = to_float32(rows).astype(np.float64)
            place_B = place_R[np.searchsorted(starts_R, numbers, side="right") - 1]
            new, at = np.unique(place_B, return_index=True)
            first[new] = np.where(np.isnan(first[new]), rows_BM[at].mean(axis=1), first[new])
            rows_BM -= first[place_B, None]
            count += np.bincount(place_B, minlength=n) * width
            total += np.bincount(place_B, rows_BM.sum(axis=1), minlength=n)
            square += np.bincount(place_B, np.einsum("bm,bm->b", rows_BM, rows_BM), minlength=n)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = (square - total**2 / count) / (count - 1)  # as torch's std: over n - 1
        factor = np.sqrt(width / variance)
    seen = count > 0
    if not (variance[seen] > 0).all():
        document = document_R[seen][int(np.argmin(variance[seen]))]
        raise ConfigError(
            f"training.input_scale: per_document: the numbers of document {document} of {store.path} at {site} do not "
            "vary, so nothing standardises them; use statistics or none"
        )
    # A document of which no row passes has no numbers: NaN, and no row of it is ever read.
    return {"starts": starts_R, "mean": (first + total / count.clip(1))[place_R], "factor": factor[place_R]}


def _read(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """What `document_units` kept; None if there is nothing, of something else, or it is damaged."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            found: dict[str, np.ndarray] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            recorded = file.metadata() or {}
    except (OSError, safetensors.SafetensorError):
        return None
    return found if recorded == {"key": key, "sha256": _hash(found)} else None


def _hash(tensors: dict[str, np.ndarray]) -> str:
    return sha256(b"".join(name.encode() + tensors[name].tobytes() for name in sorted(tensors)))
