"""How well an SAE's encoder does beside gradient pursuit, which finds codes for its decoder by optimising each row."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.kernels.pursuit import gradient_pursuit
from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.reading.heldout_rows import HeldOut, heldout_rows
from strata_sae.pipeline.reading.routes import route_in

BATCH_ROWS = 512
MOST_STEPS = 256
"""Of gradient pursuit (count): each is a product with the whole decoder."""


class Sums(NamedTuple):
    """Of one encoder, over the rows of each document: [D] each."""

    error_square_D: np.ndarray
    """Of ||x - xhat||^2, float64."""
    active_D: np.ndarray
    """Of the number of active latents, int64."""


class Pursued(NamedTuple):
    """The SAE's own encoder and gradient pursuit on the same held-out rows, those that pass training's filters."""

    own: Sums
    after: dict[int, Sums]
    """By the number of steps, rising: the most latents of a row."""
    centred_square: float
    """Of ||x - mean||^2 over all rows."""
    n_rows_D: np.ndarray
    """Rows of each document, int64."""

    def r2(self, sums: Sums) -> float:
        """1 - error / variance, pooled over rows."""
        return 1 - float(sums.error_square_D.sum()) / self.centred_square

    def l0(self, sums: Sums) -> float:
        """Active latents a row."""
        return float(sums.active_D.sum()) / float(self.n_rows_D.sum())

    def gain(self, sums: Sums) -> tuple[float, float | None]:
        """R2 less that of the SAE's own encoder, and half of its 95 % interval; None with fewer than 8 documents.

        Rows of a document are not independent: the interval is that of the sum of differences by document.
        """
        difference_D = (self.own.error_square_D - sums.error_square_D) / self.centred_square
        n = len(difference_D)
        deviation = None if n < 8 else 1.96 * float(np.std(difference_D, ddof=1)) * n**0.5
        return float(difference_D.sum()), deviation


def steps_for(l0: float) -> list[int]:
    """Numbers of steps worth a look: the SAE's own L0, and the powers of two from 4 to twice of it.

    Raises: ConfigError where no latent is active.
    """
    own = round(l0)
    if own < 1:
        raise ConfigError(f"pursuit: the SAE has {l0:.2f} active latents a row, so there is no number to pursue with")
    powers = [2**power for power in range(2, MOST_STEPS.bit_length()) if 2**power <= 2 * own]
    return sorted({n for n in (own, *powers) if n <= MOST_STEPS} or {MOST_STEPS})


@torch.inference_mode()
def pursued(sae: CodedSAE, max_rows: int) -> Pursued:
    """Both encoders on at most `max_rows` held-out rows.

    Raises: ConfigError if there are none, or the SAE is one of rows standardised by document, whose error lies in other
        units; StoreError, CheckpointError.
    """
    trained = sae.trained
    if trained.is_per_document:
        raise ConfigError(f"pursuit: {sae.name} was trained on rows standardised by document; ask it of another SAE")
    route = route_in(sae.record)
    batches = list(heldout_rows(sae.stores, route, sae.filters, BATCH_ROWS, max_rows, torch.device("cpu")))
    if not batches:
        raise ConfigError(f"pursuit: {sae.stores.path} holds no held-out row that passes training's filters")
    own = [trained.encode(batch.x_BM) for batch in batches]
    steps = steps_for(sum(codes.n_active() for codes in own) / sum(len(batch.x_BM) for batch in batches))
    rows = _Rows(sae, batches)
    found: dict[int, list[Codes]] = {n: [] for n in steps}
    bias_M = trained.sae.b_dec
    for batch in batches:
        for n, codes in gradient_pursuit(batch.target_BM - bias_M, trained.sae.W_dec, steps):
            found[n].append(codes)
    return Pursued(
        rows.sums(own), {n: rows.sums(codes) for n, codes in found.items()}, rows.centred_square, rows.n_rows_D
    )


class _Rows:
    """The rows that are scored, by document."""

    def __init__(self, sae: CodedSAE, batches: Sequence[HeldOut]) -> None:
        self._trained, self._batches = sae.trained, batches
        numbers_N = torch.cat([batch.row_numbers_B for batch in batches]).numpy()
        first = int(numbers_N.min())
        document_N = sae.stores.stores[0].token_map("document", first, int(numbers_N.max()) + 1)[numbers_N - first]
        self._document_N = np.unique(document_N, return_inverse=True)[1]
        self.n_rows_D = np.bincount(self._document_N)
        target_NM = torch.cat([batch.target_BM for batch in batches]).double()
        self.centred_square = float((target_NM - target_NM.mean(dim=0)).square().sum())

    def sums(self, codes: Sequence[Codes]) -> Sums:
        """Of one encoder's codes of the batches."""
        error_N = torch.cat([self._error_B(*pair) for pair in zip(self._batches, codes, strict=True)]).numpy()
        active_N = torch.cat([_active_B(some) for some in codes]).numpy()
        n_active_D = np.bincount(self._document_N, active_N).astype(np.int64)
        return Sums(np.bincount(self._document_N, error_N), n_active_D)

    def _error_B(self, batch: HeldOut, codes: Codes) -> Tensor:
        return (batch.target_BM.double() - self._trained.decode(codes).double()).square().sum(dim=1)


def _active_B(codes: Codes) -> Tensor:
    """Active latents of each row (count)."""
    sparse = codes.to_sparse()
    return torch.zeros(sparse.batch_size).index_add_(0, sparse.rows_P.long(), (sparse.values_P != 0).float())
