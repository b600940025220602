"""Metrics of latents: how many are active and how often, and how alike the rows of a matrix are."""

from torch import Tensor

from strata_sae.pipeline.evaluation.metric import Metric

RARE = 1e-4
"""A latent that is active on a smaller share of the rows is rare: seed 000's bound."""


class DeadLatents(Metric):
    """Latents active on none of the scored rows. Falls as more rows are scored."""

    unit = "latents"

    def _value(self) -> float | None:
        return float((self.totals.active_rows_E == 0).sum())


class AliveLatents(DeadLatents):
    """Latents active on at least one of the scored rows. Rises as more rows are scored."""

    def _value(self) -> float:
        return float((self.totals.active_rows_E > 0).sum())


class FracAlive(DeadLatents):
    """Share of the latents that are active on at least one of the scored rows. Rises as more rows are scored."""

    unit = "fraction of latents"

    def _value(self) -> float:
        return float((self.totals.active_rows_E > 0).double().mean())


class FracRare(DeadLatents):
    """Share of the latents that are active on less than 1e-4 of the scored rows, dead ones included."""

    # Below 10,000 rows this is the share of the dead: no share of so few rows lies between 0 and 1e-4.
    unit = "fraction of latents"

    def _value(self) -> float:
        return float((self.totals.active_rows_E.double() / self.totals.n_rows < RARE).double().mean())


class FracDeadAt10kRows(Metric):
    """Share of the latents that are active on none of the first 10,000 scored rows; none where there are fewer."""

    unit = "fraction of latents"
    at_rows = 10_000

    def _value(self) -> float | None:
        active_rows_E = self.totals.active_at.get(self.at_rows)
        return None if active_rows_E is None else float((active_rows_E == 0).double().mean())


class FracDeadAt100kRows(FracDeadAt10kRows):
    """Share of the latents that are active on none of the first 100,000 scored rows; none where there are fewer."""

    at_rows = 100_000


class FracDeadAt1mRows(FracDeadAt10kRows):
    """Share of the latents that are active on none of the first 1,000,000 scored rows; none where there are fewer."""

    at_rows = 1_000_000


class FracRareAt100kRows(FracDeadAt100kRows):
    """Share of the latents active on less than 1e-4 of the first 100,000 scored rows; none where there are fewer."""

    def _value(self) -> float | None:
        active_rows_E = self.totals.active_at.get(self.at_rows)
        return None if active_rows_E is None else float((active_rows_E < RARE * self.at_rows).double().mean())


class FracRareAt1mRows(FracRareAt100kRows):
    """Share of the latents active on less than 1e-4 of the first 1,000,000 scored rows; none where there are fewer."""

    at_rows = 1_000_000


class DensityMedian(DeadLatents):
    """Median over the alive latents of the share of rows on which the latent is active."""

    unit = "fraction of rows"

    def _value(self) -> float | None:
        ordered_E = self.totals.active_rows_E[self.totals.active_rows_E > 0].double().sort().values
        middle = len(ordered_E) // 2
        return float(ordered_E[middle] + ordered_E[-1 - middle]) / 2 / self.totals.n_rows if len(ordered_E) else None


class DecoderMaxCosineMean(Metric):
    """Mean over latents of the largest cosine between the latent's decoder row and any other. 0: all orthogonal."""

    unit = "cosine"
    of_rows = False

    def _value(self) -> float:
        return float(self._cosine_E().mean())

    def _cosine_E(self) -> Tensor:
        return self.totals.weights.decoder_max_cosine_E


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
        return self.totals.weights.encoder_max_cosine_E


class EncoderMaxCosineP95(DecoderMaxCosineP95):
    """95th percentile over latents of the largest cosine between the latent's encoder row and any other."""

    def _cosine_E(self) -> Tensor:
        return self.totals.weights.encoder_max_cosine_E


class EncoderMaxCosineMax(DecoderMaxCosineMax):
    """Largest cosine between any two encoder rows. 1: two latents read the same direction."""

    def _cosine_E(self) -> Tensor:
        return self.totals.weights.encoder_max_cosine_E
