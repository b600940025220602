"""What is measured of one SAE, and of the rows it was measured on."""

import math

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.evaluation.metrics import METRICS, DeadLatents, Metric, R2Pooled, ScoredRows
from strata_sae.pipeline.runs.evaluation_records import Histogram, Measured
from strata_sae.pipeline.runs.trained import TrainedSAE
from strata_sae.stores import ActivationStore

BINS_PER_DECADE = 8
DECADES = 7
"""Rarer than 1e-7 is seen in stores of more than ten million held-out rows only."""


class Scores:
    """All metrics of one SAE, fed with the same batches."""

    def __init__(self, trained: TrainedSAE) -> None:
        self.trained = trained
        self.max_cosine_E = decoder_max_cosine(trained.sae.W_dec)
        self.metrics: dict[str, Metric] = {name: metric(self.max_cosine_E) for name, metric in METRICS.items()}
        self.latents = DeadLatents(self.max_cosine_E)
        writes = trained.record.writes
        self.widths = {part.site: part.width for part in writes} if len(writes) > 1 else {}
        self.by_site: dict[str, Metric] = {site: R2Pooled(self.max_cosine_E) for site in self.widths}

    def update(self, x_BM: Tensor, target_BM: Tensor) -> None:
        """Take one batch in: what is read, and what is to be written."""
        codes = self.trained.encode(x_BM)
        xhat_BM = self.trained.decode(codes)
        rows = ScoredRows(target_BM, codes, xhat_BM)
        start = 0
        for site, width in self.widths.items():
            own = slice(start, start := start + width)
            self.by_site[site].update(ScoredRows(target_BM[:, own], codes, xhat_BM[:, own]))
        self.latents.update(rows)
        for metric in self.metrics.values():
            metric.update(rows)

    def measured(self) -> dict[str, Measured]:
        """Every number with its unit and definition."""
        of_sites = {f"r2_pooled/{site}": r2 for site, r2 in self.by_site.items()}
        return {
            name: Measured(value=metric.value(), unit=metric.unit, definition=definition(type(metric)))
            for name, metric in (self.metrics | of_sites).items()
        }

    def density_E(self) -> Tensor:
        """Share of the rows on which each latent is active: float64 [E]."""
        return self.latents.active_rows_E.double() / self.latents.n_rows


def definition(metric: type[Metric]) -> str:
    """A metric's definition: its docstring on one line."""
    return " ".join((metric.__doc__ or "").split())


class Population:
    """How many rows were scored, of how many documents, and how much of the squared norm few of them carry."""

    def __init__(self, store: ActivationStore) -> None:
        self.store = store
        self.n_rows = 0
        self.documents: set[int] = set()
        self._squares: list[Tensor] = []

    def update(self, x_BM: Tensor, row_numbers_B: Tensor) -> None:
        """Take one batch in; batches come in plan order."""
        numbers = row_numbers_B.cpu().numpy()
        document_B = self.store.token_map("document", int(numbers[0]), int(numbers[-1]) + 1)[numbers - numbers[0]]
        self.documents.update(np.unique(document_B).tolist())
        self.n_rows += len(x_BM)
        self._squares.append(x_BM.double().square().sum(dim=1).float().cpu())

    def top_percent_square_share(self) -> float | None:
        """Share of the sum of ||x||^2 in the largest 1 % of the rows; near 1, pooled numbers describe those rows alone.

        None where the sum is 0 or overflows.
        """
        squares_N = torch.cat(self._squares).double().sort(descending=True).values
        top, total = float(squares_N[: math.ceil(0.01 * self.n_rows)].sum()), float(squares_N.sum())
        return top / total if 0.0 < total < math.inf else None


def density_histogram(active_rows_E: Tensor, n_rows: int) -> Histogram:
    """Alive latents (count) by log10 of the share of rows on which they are active; rarer ones are in the first bin."""
    n_bins = BINS_PER_DECADE * DECADES
    edges = [place / BINS_PER_DECADE - DECADES for place in range(n_bins + 1)]
    log10_density = (active_rows_E[active_rows_E > 0].double() / n_rows).log10()
    bins = ((log10_density + DECADES) * BINS_PER_DECADE).floor().long().clamp(0, n_bins - 1)
    return Histogram(log10_edges=edges, counts=torch.bincount(bins, minlength=n_bins).tolist())


def decoder_max_cosine(W_dec: Tensor, tile_rows: int = 1024) -> Tensor:
    """Each latent's largest cosine to another decoder row, float64 [E], by products in W_dec's own precision.

    A zero row has cosine 0 to all. Works on tiles of `tile_rows` x `tile_rows`: the E x E matrix never exists.
    """
    unit_EM = torch.nn.functional.normalize(W_dec, dim=1)
    best_E = unit_EM.new_full((len(unit_EM),), -1.0)
    for start in range(0, len(unit_EM), tile_rows):
        tile_RM, best_R = unit_EM[start : start + tile_rows], best_E[start : start + tile_rows]
        for other in range(start, len(unit_EM), tile_rows):
            cosine_RR = tile_RM @ unit_EM[other : other + tile_rows].T
            if other == start:
                cosine_RR.fill_diagonal_(-1.0)
            torch.maximum(best_R, cosine_RR.amax(dim=1), out=best_R)
            best_other_R = best_E[other : other + tile_rows]
            torch.maximum(best_other_R, cosine_RR.amax(dim=0), out=best_other_R)
    return best_E.double()
