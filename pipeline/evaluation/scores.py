"""What is measured of one SAE, and of the rows it was measured on."""

import math

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.evaluation.metric import Metric, definition
from strata_sae.pipeline.evaluation.metrics import METRICS, DeadLatents, R2Pooled
from strata_sae.pipeline.evaluation.scored_rows import ScoredRows, WeightFacts, weight_facts
from strata_sae.pipeline.runs.evaluation_records import Histogram, Measured, other_form
from strata_sae.pipeline.runs.row_units import RowUnits
from strata_sae.pipeline.runs.trained import TrainedSAE
from strata_sae.stores import ActivationStore

BINS_PER_DECADE = 8
DECADES = 7
"""Rarer than 1e-7 is seen in stores of more than ten million held-out rows only."""


class Measures:
    """Metrics of one SAE, of one of its ways of inference, over the rows that are handed to it."""

    def __init__(self, weights: WeightFacts, sites: dict[str, int], *, weights_too: bool = True) -> None:
        """sites: widths of several sites that are written. weights_too: whether with metrics that no row changes."""
        chosen = {name: metric for name, metric in METRICS.items() if weights_too or not metric.of_weights}
        self.metrics: dict[str, Metric] = {name: metric(weights) for name, metric in chosen.items()}
        self._sites = sites
        self._by_site: dict[str, Metric] = {site: R2Pooled(weights) for site in sites}

    def update(self, rows: ScoredRows) -> None:
        """Take one batch in."""
        start = 0
        for site, width in self._sites.items():
            own = slice(start, start := start + width)
            self._by_site[site].update(ScoredRows(rows.target_BM[:, own], rows.codes, rows.xhat_BM[:, own]))
        for metric in self.metrics.values():
            metric.update(rows)

    def measured(self) -> dict[str, Measured]:
        """Every number with its unit and definition."""
        of_sites = {f"r2_pooled/{site}": r2 for site, r2 in self._by_site.items()}
        return {
            name: Measured(value=metric.value(), unit=metric.unit, definition=definition(type(metric)))
            for name, metric in (self.metrics | of_sites).items()
        }


class Scores:
    """All that is measured of one SAE, fed with the same batches: each is encoded once for every way of inference."""

    def __init__(self, trained: TrainedSAE) -> None:
        self.trained = trained
        self.weights = weight_facts(trained.sae.W_dec, trained.sae.W_enc)
        self.latents = DeadLatents(self.weights)
        writes = trained.record.writes
        sites = {part.site: part.width for part in writes} if len(writes) > 1 else {}
        self.ways = trained.sae.inferences()
        self.of_encode = Measures(self.weights, sites)
        self.of_others = {way: Measures(self.weights, sites, weights_too=False) for way in self.ways[1:]}

    def update(self, x_BM: Tensor, target_BM: Tensor, units: RowUnits | None = None) -> None:
        """Take one batch in: what is read, what is to be written, and the units of the rows' documents if needed."""
        trained, sae = self.trained, self.trained.sae
        codes, *others = (
            sae.encode_as(trained.seen(x_BM, units), self.ways) if self.ways else [trained.encode(x_BM, units)]
        )
        rows = ScoredRows(target_BM, codes, trained.decode(codes, units))
        self.latents.update(rows)
        self.of_encode.update(rows)
        for measures, other in zip(self.of_others.values(), others, strict=True):
            measures.update(ScoredRows(target_BM, other, trained.decode(other, units)))

    def measured(self) -> dict[str, Measured]:
        """Every number of the codes that `encode` gives, then of the other ways of inference, by `other_form`."""
        others = {
            other_form(name, way): measured
            for way, measures in self.of_others.items()
            for name, measured in measures.measured().items()
        }
        return self.of_encode.measured() | others

    def density_E(self) -> Tensor:
        """Share of the rows on which each latent is active: float64 [E]."""
        return self.latents.active_rows_E.double() / self.latents.n_rows


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
