"""What is measured of one SAE, of each population and each way of inference, from batches that all SAEs share."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.evaluation.documents import DocumentErrors
from strata_sae.pipeline.evaluation.metric import definition
from strata_sae.pipeline.evaluation.metrics import METRICS, R2Pooled
from strata_sae.pipeline.evaluation.populations import Batch, Populations, Taken
from strata_sae.pipeline.evaluation.positions import N_BUCKETS, error_by_bucket
from strata_sae.pipeline.evaluation.scored_rows import ScoredRows, WeightFacts, weight_facts
from strata_sae.pipeline.evaluation.totals import BatchTargets, Segment, Totals
from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.runs.evaluation_records import Histogram, Measured, PopulationScores, other_form
from strata_sae.pipeline.runs.judging_records import DocumentSums, PopulationName
from strata_sae.pipeline.runs.row_units import RowUnits
from strata_sae.pipeline.runs.trained import TrainedSAE

BINS_PER_DECADE = 8
DECADES = 7
"""Rarer than 1e-7 is seen in stores of more than ten million held-out rows only."""


class Measures:
    """Metrics of one SAE, of one of its ways of inference, over the rows of one population."""

    def __init__(self, weights: WeightFacts, sites: dict[str, int], *, of_rows_alone: bool = False) -> None:
        """sites: widths of several sites that are written. of_rows_alone: without metrics that are measured once."""
        self.totals = Totals(weights)
        self._chosen = {name: metric for name, metric in METRICS.items() if metric.of_rows or not of_rows_alone}
        self._sites = sites
        self._by_site = {site: Totals(weights) for site in sites}

    def update(self, parts: Sequence[ScoredRows], segments: Sequence[Segment]) -> None:
        """Take the rows of the segments in."""
        self.totals.update(parts, segments)

    def update_sites(self, parts: Sequence[dict[str, ScoredRows]], segments: Sequence[Segment]) -> None:
        """Take in the columns of each of several sites that are written."""
        batchless = [segment._replace(ends=None) for segment in segments]
        for site, totals in self._by_site.items():
            totals.update([part[site] for part in parts], batchless)

    def measured(self) -> dict[str, Measured]:
        """Every number with its unit and definition."""
        metrics = {name: metric(self.totals) for name, metric in self._chosen.items()}
        of_sites = {f"r2_pooled/{site}": R2Pooled(totals) for site, totals in self._by_site.items()}
        return {
            name: Measured(value=metric.value(), unit=metric.unit, definition=definition(type(metric)))
            for name, metric in (metrics | of_sites).items()
        }


class Encoded(NamedTuple):
    """One way of inference of a part: the whole rows, and the columns of each of several sites."""

    rows: ScoredRows
    by_site: dict[str, ScoredRows]


class PopulationMeasures:
    """Everything that is measured of one SAE over one population."""

    def __init__(self, weights: WeightFacts, sites: dict[str, int], ways: Sequence[str], *, is_first: bool) -> None:
        self.of_encode = Measures(weights, sites, of_rows_alone=not is_first)
        self.of_others = {way: Measures(weights, sites, of_rows_alone=True) for way in ways[1:]}
        self.documents = DocumentErrors()
        self.error_square_by_bucket = torch.zeros(N_BUCKETS, dtype=torch.float64)

    def update(self, ways: Sequence[Sequence[Encoded]], batch: Batch, taken: Taken) -> None:
        """Take in the rows that the population takes: of each way of inference, of each part."""
        for measures, parts in zip((self.of_encode, *self.of_others.values()), ways, strict=True):
            measures.update([part.rows for part in parts], taken.segments)
            measures.update_sites([part.by_site for part in parts], taken.segments)
        fields = zip(ways[0], batch.buckets_B, taken.slices, taken.documents, strict=True)
        for part, bucket_B, used, places in fields:
            self.documents.take(part.rows, places)
            self.error_square_by_bucket += error_by_bucket(part.rows, bucket_B, used)

    def measured(self) -> dict[str, Measured]:
        """Every number of the codes that `encode` gives, then of the other ways of inference, by `other_form`."""
        others = {
            other_form(name, way): measured
            for way, measures in self.of_others.items()
            for name, measured in measures.measured().items()
        }
        return self.of_encode.measured() | others


class Scores:
    """All that is measured of one SAE, fed with the same batches: each is encoded once for every way of inference."""

    def __init__(self, trained: TrainedSAE, populations: Populations) -> None:
        self.trained, self.populations = trained, populations
        self.weights = weight_facts(trained.sae.W_dec, trained.sae.W_enc)
        writes = trained.record.writes
        self._sites = {part.site: part.width for part in writes} if len(writes) > 1 else {}
        self._ways = trained.sae.inferences()
        self._by_population: dict[PopulationName, PopulationMeasures] = {
            name: PopulationMeasures(self.weights, self._sites, self._ways, is_first=name == "as_trained")
            for name in populations.rows
        }
        self._without_units = False

    @property
    def totals(self) -> Totals:
        """Sums over the rows that training's filters leave."""
        return self._by_population["as_trained"].of_encode.totals

    def update(self, batch: Batch, units: Sequence[RowUnits | None]) -> None:
        """Take one batch in; `units`: of the rows of each part, if they are needed."""
        by_part = [self._encoded(batch, place, units[place]) for place in range(len(batch.parts))]
        by_way = list(zip(*by_part, strict=True))
        for name, measures in self._by_population.items():
            measures.update(by_way, batch, batch.taken[name])
        for part, encoded in zip(batch.parts, by_part, strict=True):
            for kind, kept in (("special", part.special_B), ("template", part.template_B)):
                if kept.any():
                    self.totals.add_tokens(kind, encoded[0].rows, torch.from_numpy(kept))
        for rows_units in units if self.trained.is_per_document else ():
            self._without_units |= rows_units is not None and not bool(rows_units.mean_B.isfinite().all())

    def finish(self, last: Mapping[PopulationName, BatchTargets]) -> None:
        """There are no more rows: `last`, the batch of the populations that have one alone."""
        for name, targets in last.items():
            measures = self._by_population[name]
            for of_way in (measures.of_encode, *measures.of_others.values()):
                of_way.totals.end_batch(targets)

    def scores_of(self, name: PopulationName) -> PopulationScores | None:
        """Everything that is recorded of a population; None where not all of its rows have units."""
        found: PopulationName = "as_trained" if self.populations.are_one else name
        if found != "as_trained" and self._without_units:
            return None
        rows, measures = self.populations.rows[found], self._by_population[found]
        totals = measures.of_encode.totals
        once = {metric for metric, kind in METRICS.items() if not kind.of_rows}
        metrics = measures.measured()
        return PopulationScores(
            metrics=metrics if name == "as_trained" else {key: metrics[key] for key in metrics if key not in once},
            density_histogram=density_histogram(totals.active_rows_E, rows.n_rows),
            n_rows=rows.n_rows,
            n_documents=len(rows.documents.ids),
            top_percent_square_share=rows.top_percent_square_share(),
            by_position=rows.positions.scores(measures.error_square_by_bucket, totals.d_out),
        )

    def documents_of(self, name: PopulationName) -> DocumentSums:
        """Sums over the rows of each document of a population."""
        found: PopulationName = "as_trained" if self.populations.are_one else name
        return self._by_population[found].documents.sums(self.populations.rows[found].documents)

    def density_E(self) -> Tensor:
        """Share of the rows on which each latent is active: float64 [E]."""
        return self.totals.active_rows_E.double() / self.totals.n_rows

    def _encoded(self, batch: Batch, place: int, units: RowUnits | None) -> list[Encoded]:
        """The rows of a part by each way of inference, that of `encode` first."""
        trained, sae, space = self.trained, self.trained.sae, batch.workspaces[place]
        x_BM = trained.seen(batch.parts[place].x_BM, units)
        ways = (
            sae.encode_as(x_BM, self._ways, workspace=space)
            if self._ways
            else [sae.encode_inference(x_BM, workspace=space)]
        )
        return [self._scored(codes, trained.decode(codes, units), batch, place) for codes in ways]

    def _scored(self, codes: Codes, xhat_BM: Tensor, batch: Batch, place: int) -> Encoded:
        targets = batch.targets[place]
        rows = ScoredRows(targets, codes, xhat_BM, n_counted=batch.n_counted[place])
        by_site, start = {}, 0
        for site, width in self._sites.items():
            own = slice(start, start := start + width)
            by_site[site] = ScoredRows(batch.columns(place, own), codes, xhat_BM[:, own], rows.codes)
        return Encoded(rows, by_site)


def density_histogram(active_rows_E: Tensor, n_rows: int) -> Histogram:
    """Alive latents (count) by log10 of the share of rows on which they are active; rarer ones are in the first bin."""
    n_bins = BINS_PER_DECADE * DECADES
    edges = [place / BINS_PER_DECADE - DECADES for place in range(n_bins + 1)]
    log10_density = (active_rows_E[active_rows_E > 0].double() / n_rows).log10()
    bins = ((log10_density + DECADES) * BINS_PER_DECADE).floor().long().clamp(0, n_bins - 1)
    return Histogram(log10_edges=edges, counts=torch.bincount(bins, minlength=n_bins).tolist())
