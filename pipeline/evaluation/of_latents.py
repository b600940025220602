"""Metrics of latents: how many are active and how often, and how alike the rows of a matrix are."""

from torch import Tensor

from strata_sae.pipeline.evaluation.metric import Metric
from strata_sae.pipeline.evaluation.scored_rows import ScoredRows

RARE = 1e-4
"""A latent that is active on a smaller share of the rows is rare: seed 000's bound."""


class DeadLatents(Metric):
    """Latents active on none of the scored rows. Falls as more rows are scored."""

    unit = "latents"

    def _add(self, rows: ScoredRows) -> None:
        self.active_rows_E += rows.active_rows_E

    def _value(self) -> float | None:
        return float((self.active_rows_E == 0).sum())


class AliveLatents(DeadLatents):
    """Latents active on at least one of the scored rows. Rises as more rows are scored."""

    def _value(self) -> float:
        return float((self.active_rows_E > 0).sum())


class FracAlive(DeadLatents):
    """Share of the latents that are active on at least one of the scored rows. Rises as more rows are scored."""

    unit = "fraction of latents"

    def _value(self) -> float:
        return float((self.active_rows_E > 0).double().mean())


class FracRare(DeadLatents):
    """Share of the latents that are active on less than 1e-4 of the scored rows, dead ones included."""

    # Below 10,000 rows this is the share of the dead: no share of so few rows lies between 0 and 1e-4.
    unit = "fraction of latents"

    def _value(self) -> float:
        return float((self.active_rows_E.double() / self.n_rows < RARE).double().mean())


class DensityMedian(DeadLatents):
    """Median over the alive latents of the share of rows on which the latent is active."""

    unit = "fraction of rows"

    def _value(self) -> float | None:
        ordered_E = self.active_rows_E[self.active_rows_E > 0].double().sort().values
        middle = len(ordered_E) // 2
        return float(ordered_E[middle] + ordered_E[-1 - middle]) / 2 / self.n_rows if len(ordered_E) else None


class DecoderMaxCosineMean(Metric):
    """Mean over latents of the largest cosine between the latent's decoder row and any other. 0: all orthogonal."""

    unit = "cosine"
    of_weights = True

    def _add(self, rows: ScoredRows) -> None:
        """No row changes the weights."""

    def _value(self) -> float:
        return float(self._cosine_E().mean())

    def _cosine_E(self) -> Tensor:
        return self.weights.decoder_max_cosine_E


class DecoderMaxCosineP95(DecoderMaxCosineMean):
    """95th percentile over latents of the largest cosine between the latent's decoder row and any other."""

    def _value(self) -> float:
        ordered_E = self._cosine_E().sort().values
        return float(ordered_E[round(0.95 * (len(ordered_E) - 1))])


class DecoderMaxCosineMax(DecoderMaxCosineMean):
    """Largest cosine between any two decoder rows. 1: two latents write the same direction."""

    def _value(self) -> float:
        return float(self._cosine_E().max())


class EncoderMaxCosineMean(DecoderMaxCosineMean):
    """Mean over latents of the largest cosine between the latent's encoder row and any other. 0: all orthogonal."""

    def _cosine_E(self) -> Tensor:
        return self.weights.encoder_max_cosine_E


class EncoderMaxCosineP95(DecoderMaxCosineP95):
    """95th percentile over latents of the largest cosine between the latent's encoder row and any other."""

    def _cosine_E(self) -> Tensor:
        return self.weights.encoder_max_cosine_E


class EncoderMaxCosineMax(DecoderMaxCosineMax):
    """Largest cosine between any two encoder rows. 1: two latents read the same direction."""

    def _cosine_E(self) -> Tensor:
        return self.weights.encoder_max_cosine_E
