"""Everything measured on one SAE, and the record of it."""

from typing import Any

from torch import Tensor

from strata_sae.pipeline.evaluation.density import density_histogram
from strata_sae.pipeline.evaluation.metrics import METRICS, DeadLatents, Metric, R2Pooled
from strata_sae.pipeline.evaluation.scored import ScoredRows, decoder_max_cosine
from strata_sae.pipeline.runs import fingerprint
from strata_sae.pipeline.runs.trained import TrainedSAE


class Scores:
    """All metrics of one SAE, fed with the same batches."""

    def __init__(self, trained: TrainedSAE) -> None:
        self.trained = trained
        self.max_cosine_E = decoder_max_cosine(trained.sae.W_dec)
        self.metrics: dict[str, Metric] = {name: metric(self.max_cosine_E) for name, metric in METRICS.items()}
        self.latents = DeadLatents(self.max_cosine_E)
        writes = trained.record.get("writes", [])
        self.widths = {part["site"]: part["width"] for part in writes} if len(writes) > 1 else {}
        self.by_site: dict[str, Metric] = {site: R2Pooled(self.max_cosine_E) for site in self.widths}

    def update(self, x_BM: Tensor, target_BM: Tensor) -> None:
        """Take one batch in: what is read, and what is to be written."""
        codes = self.trained.sae.encode_inference(x_BM)
        xhat_BM = self.trained.sae.decode(codes)
        rows = ScoredRows(target_BM, codes, xhat_BM)
        start = 0
        for site, width in self.widths.items():
            own = slice(start, start := start + width)
            self.by_site[site].update(ScoredRows(target_BM[:, own], codes, xhat_BM[:, own]))
        self.latents.update(rows)
        for metric in self.metrics.values():
            metric.update(rows)

    def record(self, identity: dict[str, Any], population: dict[str, Any]) -> dict[str, Any]:
        """metrics.json: every number with its unit and definition, and what it was measured on."""
        measured = {
            name: {"value": metric.value(), "unit": metric.unit, "definition": definition(type(metric))}
            for name, metric in [
                *self.metrics.items(),
                *((f"r2_pooled/{site}", r2) for site, r2 in self.by_site.items()),
            ]
        }
        histogram = density_histogram(self.latents.fired_E, self.latents.n_rows)
        facts = {"metrics": measured, "density_histogram": histogram, **population}
        return {**identity, **facts, "fingerprint": fingerprint(identity)}


def definition(metric: type[Metric]) -> str:
    """A metric's definition: its docstring on one line."""
    return " ".join((metric.__doc__ or "").split())
