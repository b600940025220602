"""SAEs that are asked about their codes, made of a matrix of codes: nothing is trained, and nothing lies on a disk."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

SITE = "blocks.1.hook_resid_post"


class PlantedCodes:
    """What queries take of a codes store."""

    path = Path("planted")

    def __init__(self, dense_NE: np.ndarray, store_id: str) -> None:
        self.dense_NE = dense_NE
        n_rows, d_sae = dense_NE.shape
        self.plan = SimpleNamespace(n_rows=n_rows, d_sae=d_sae, store_ids={SITE: store_id})
        self.n_pairs = int(np.count_nonzero(dense_NE))

    def latents_of(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        row_P, latent_P = np.nonzero(self.dense_NE[start:stop])
        offset = np.zeros(stop - start + 1, np.int64)
        np.cumsum(np.bincount(row_P, minlength=stop - start), out=offset[1:])
        return offset, latent_P.astype(np.uint32)

    def rows_of(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.flatnonzero(self.dense_NE[:, latent])
        return rows, self.dense_NE[rows, latent]


class PlantedSAE:
    """What queries take of an SAE with codes."""

    def __init__(
        self,
        dense_NE: np.ndarray,
        W_dec: np.ndarray | None = None,
        kept_N: np.ndarray | None = None,
        *,
        store_id: str = "store",
        stores: SimpleNamespace | None = None,
        site: str = SITE,
    ) -> None:
        """kept_N: the rows of `as_trained`; of `all` are all."""
        n_rows, self.d_sae = dense_NE.shape
        self.name, self.codes, self.stores = f"planted@{site}", PlantedCodes(dense_NE, store_id), stores
        self.W_dec = np.eye(self.d_sae, dtype=np.float32) if W_dec is None else W_dec.astype(np.float32)
        self._kept_N = np.ones(n_rows, bool) if kept_N is None else kept_N
        record = SimpleNamespace(writes=[], site=site, d_out=self.W_dec.shape[1])
        self.record, self.trained = record, SimpleNamespace(record=record)

    def kept(self, population: str = "as_trained") -> np.ndarray:
        return self._kept_N if population == "as_trained" else np.ones(self.codes.plan.n_rows, bool)

    def active(self, population: str = "as_trained") -> np.ndarray:
        """Where each latent is active, elsewhere than outside of the population: bool [n_rows, d_sae]."""
        return (self.codes.dense_NE != 0) & self.kept(population)[:, None]


def random_codes(n_rows: int, d_sae: int, density: float, seed: int) -> np.ndarray:
    """Codes of latents whose frequencies differ by a factor of hundreds; the last latent is never active."""
    rng = np.random.default_rng(seed)
    share_E = (density * rng.lognormal(0, 1.2, d_sae)).clip(max=0.9)
    share_E[-1] = 0
    return (rng.random((n_rows, d_sae)) < share_E) * (1 + rng.random((n_rows, d_sae))).astype(np.float32)


def together_by_loops(active_NE: np.ndarray, other_NF: np.ndarray) -> np.ndarray:
    """The plain count: a row after the other, every pair of its latents."""
    together_EF = np.zeros((active_NE.shape[1], other_NF.shape[1]), np.int64)
    for row in range(len(active_NE)):
        for latent in np.flatnonzero(active_NE[row]):
            for other in np.flatnonzero(other_NF[row]):
                together_EF[latent, other] += 1
    return together_EF
