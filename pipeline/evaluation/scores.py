"""Everything measured on one SAE, and the record of it."""

from typing import Any

from torch import Tensor

from pipeline.artifacts import fingerprint
from pipeline.evaluation.density import density_histogram
from pipeline.evaluation.metrics import METRICS, DeadLatents, Metric
from pipeline.evaluation.scored import ScoredRows, decoder_max_cosine
from pipeline.evaluation.trained import TrainedSAE


class Scores:
    """All metrics of one SAE, fed with the same batches."""

    def __init__(self, trained: TrainedSAE) -> None:
        self.trained = trained
        self.max_cosine_E = decoder_max_cosine(trained.sae.W_dec)
        self.metrics: dict[str, Metric] = {name: metric(self.max_cosine_E) for name, metric in METRICS.items()}
        self.latents = DeadLatents(self.max_cosine_E)

    def update(self, x_BM: Tensor) -> None:
        """Take one batch in."""
        codes = self.trained.sae.encode_inference(x_BM)
        rows = ScoredRows(x_BM, codes, self.trained.sae.decode(codes))
        self.latents.update(rows)
        for metric in self.metrics.values():
            metric.update(rows)

    def record(self, identity: dict[str, Any], population: dict[str, Any]) -> dict[str, Any]:
        """metrics.json: every number with its unit and definition, and what it was measured on."""
        measured = {
            name: {"value": metric.value(), "unit": metric.unit, "definition": definition(type(metric))}
            for name, metric in self.metrics.items()
        }
        histogram = density_histogram(self.latents.fired_E, self.latents.n_rows)
        facts = {"metrics": measured, "density_histogram": histogram, **population}
        return {**identity, **facts, "fingerprint": fingerprint(identity)}


def definition(metric: type[Metric]) -> str:
    """A metric's definition: its docstring on one line."""
    return " ".join((metric.__doc__ or "").split())
