"""Codes: which latents are active in which row, and how strongly; as (row, latent) entries or as a full matrix."""

from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.machine.backend import backend_of
from strata_sae.pipeline.kernels.machine.reference import Entries

ROWS_PER_PART = 512
"""Rows of a matrix that one thread sums (count)."""
# One sum over all latents would run on one thread. Parts of a fixed length keep the order of summing, hence the bits,
# the same for any number of threads.


class SparseCodes:
    """Codes as P entries (row, latent, value) in row order; no operation forms the matrix [B, E].

    An entry may have the value 0: its latent is then not active in the row. Every sum runs in a fixed order, so equal
    inputs give equal bits.
    """

    def __init__(self, values_P: Tensor, indices_P: Tensor, offsets: Tensor, n_latents: int):
        self.values_P = values_P
        self.indices_P = indices_P  # latent of each entry
        self.offsets = offsets  # [B + 1]: row b has the entries offsets[b] to offsets[b + 1] - 1
        self.n_latents = n_latents

    @property
    def values(self) -> Tensor:
        """The stored values, here values_P."""
        return self.values_P

    @property
    def batch_size(self) -> int:
        """Rows (count)."""
        return self.offsets.numel() - 1

    @cached_property
    def rows_P(self) -> Tensor:
        """Row of each entry."""
        rows_B = torch.arange(self.batch_size, dtype=self.indices_P.dtype, device=self.indices_P.device)
        return rows_B.repeat_interleave(self.offsets.diff(), output_size=self.indices_P.numel())

    @cached_property
    def by_latent(self) -> tuple[Tensor, Tensor, Tensor]:
        """The entries sorted by latent: their order, their rows, and where each latent begins, [E + 1]."""
        return backend_of(self.values_P).sort_by_index(self.indices_P, self.rows_P, self.n_latents)

    @property
    def entries(self) -> Entries:
        """Where the entries stand, for operations on pairs of latents; the codes must be sorted by row, then latent."""
        return Entries(self.indices_P, self.rows_P, self.offsets, self.by_latent)

    def decode(self, W_EM: Tensor) -> Tensor:
        """For each row, the sum over latents of value * W_EM[latent]. Returns: [B, M]."""
        return backend_of(W_EM).weighted_sums(self.indices_P, W_EM, self.offsets, self.values_P)

    def dots(self, left_BM: Tensor, W_EM: Tensor) -> Tensor:
        """Inner product of left_BM[row] and W_EM[latent] for every entry. Returns: [P]."""
        return backend_of(W_EM).sampled_dots(left_BM, W_EM, self.rows_P, self.indices_P, self.offsets)

    def transposed_times(self, rows_BM: Tensor, values: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """Codes transposed times rows_BM; `values` stand in for the codes' own. Returns: [E, M], in `out`."""
        # Sorted by latent, each row of the result is one sum, which one thread takes in one order: no atomic additions.
        order_P, rows_P, offsets = self.by_latent
        values_P = self.values_P if values is None else values
        return backend_of(rows_BM).weighted_sums(rows_P, rows_BM, offsets, values_P[order_P], out)

    def latent_sums(self, values: Tensor | None = None) -> Tensor:
        """For each latent, the sum over the batch; `values` stand in for the codes' own. Returns: [E]."""
        values_P = self.values_P if values is None else values
        return backend_of(values_P).index_sums(values_P, self.indices_P, self.n_latents)

    def columns(self, start: int, stop: int) -> tuple["SparseCodes", Tensor]:
        """Latents start to stop - 1, renumbered from 0, and their places: part.values is values[places]."""
        kept_P = (self.indices_P >= start) & (self.indices_P < stop)
        places_P = kept_P.nonzero().squeeze(1)
        offsets = offsets_of(kept_P)[self.offsets].to(self.offsets.dtype)
        part = SparseCodes(self.values_P[places_P], self.indices_P[places_P] - start, offsets, stop - start)
        return part, places_P

    def with_values(self, values: Tensor) -> "SparseCodes":
        """The same entries with other values."""
        return SparseCodes(values, self.indices_P, self.offsets, self.n_latents)

    def spread_latents(self, values_E: Tensor) -> Tensor:
        """A number of each latent, in the place of each entry. Returns: [P]."""
        return values_E[self.indices_P]

    def spread_rows(self, values_B: Tensor) -> Tensor:
        """A number of each row, in the place of each entry. Returns: [P]."""
        return values_B[self.rows_P]

    def active_E(self) -> Tensor:
        """Whether each latent is active (not 0) in any row. Returns: bool [E]."""
        return self.active_rows_E() > 0

    def active_rows_E(self) -> Tensor:
        """Rows in which each latent is active (count). Returns: int64 [E]."""
        return torch.bincount(self.indices_P[self.values_P != 0], minlength=self.n_latents)

    def n_active(self) -> int:
        """Values other than 0 (count)."""
        return int((self.values_P != 0).sum())

    def to_dense(self) -> Tensor:
        """The full matrix. Returns: [B, E]."""
        values_BE = self.values_P.new_zeros(self.batch_size, self.n_latents)
        values_BE[self.rows_P.long(), self.indices_P.long()] = self.values_P
        return values_BE

    def to_sparse(self) -> "SparseCodes":
        """These codes."""
        return self


class DenseCodes:
    """Codes as a full matrix: the same methods as SparseCodes, cheaper where many latents are active."""

    def __init__(self, values_BE: Tensor):
        self.values_BE = values_BE

    @property
    def values(self) -> Tensor:
        """The stored values, here values_BE."""
        return self.values_BE

    @property
    def batch_size(self) -> int:
        """Rows (count)."""
        return self.values_BE.shape[0]

    @property
    def n_latents(self) -> int:
        """Latents (count)."""
        return self.values_BE.shape[1]

    def decode(self, W_EM: Tensor) -> Tensor:
        """For each row, the sum over latents of value * W_EM[latent]. Returns: [B, M]."""
        return self.values_BE @ W_EM

    def dots(self, left_BM: Tensor, W_EM: Tensor) -> Tensor:
        """Inner product of left_BM[row] and W_EM[latent]. Returns: [B, E]."""
        return left_BM @ W_EM.T

    def transposed_times(self, rows_BM: Tensor, values: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """Codes transposed times rows_BM; `values` stand in for the codes' own. Returns: [E, M], in `out`."""
        return torch.mm((self.values_BE if values is None else values).T, rows_BM, out=out)

    def latent_sums(self, values: Tensor | None = None) -> Tensor:
        """For each latent, the sum over the batch; `values` stand in for the codes' own. Returns: [E]."""
        return (self.values_BE if values is None else values).sum(0)

    def columns(self, start: int, stop: int) -> tuple["DenseCodes", tuple[slice, slice]]:
        """Latents start to stop - 1, renumbered from 0, and their places: part.values is values[places]."""
        places = (slice(None), slice(start, stop))
        return DenseCodes(self.values_BE[places]), places

    def with_values(self, values: Tensor) -> "DenseCodes":
        """Codes of the same shape with other values."""
        return DenseCodes(values)

    def spread_latents(self, values_E: Tensor) -> Tensor:
        """A number of each latent, which broadcasts over the rows. Returns: [E]."""
        return values_E

    def spread_rows(self, values_B: Tensor) -> Tensor:
        """A number of each row, which broadcasts over the latents. Returns: [B, 1]."""
        return values_B[:, None]

    def active_E(self) -> Tensor:
        """Whether each latent is active (not 0) in any row. Returns: bool [E]."""
        return (self.values_BE != 0).any(0)

    def active_rows_E(self) -> Tensor:
        """Rows in which each latent is active (count). Returns: int64 [E]."""
        return (self.values_BE != 0).sum(0)

    def n_active(self) -> int:
        """Values other than 0 (count)."""
        return int((self.values_BE != 0).sum())

    def to_dense(self) -> Tensor:
        """The full matrix. Returns: [B, E]."""
        return self.values_BE

    def to_sparse(self) -> SparseCodes:
        """The entries with a value other than 0."""
        return sparse_where(self.values_BE, self.values_BE != 0)


Codes: TypeAlias = SparseCodes | DenseCodes


def sparse_where(values_BE: Tensor, kept_BE: Tensor) -> SparseCodes:
    """The entries where kept_BE (bool [B, E]) is true."""
    return from_flat(kept_BE.reshape(-1).nonzero().squeeze(1), values_BE)


def from_flat(flat_P: Tensor, values_BE: Tensor) -> SparseCodes:
    """The entries at positions flat_P of values_BE, which rise and count row after row."""
    return from_places(flat_P, values_BE.reshape(-1)[flat_P], *values_BE.shape)


def from_places(flat_P: Tensor, values_P: Tensor, batch_size: int, n_latents: int) -> SparseCodes:
    """Entries at positions flat_P of a [batch_size, n_latents] matrix, which rise and count row after row."""
    counts_B = torch.bincount(flat_P.div(n_latents, rounding_mode="floor"), minlength=batch_size)
    return SparseCodes(values_P, flat_P % n_latents, offsets_of(counts_B), n_latents)


def row_sum(weights_E: Tensor, W_EM: Tensor) -> Tensor:
    """weights_E @ W_EM, summed by all threads. Returns: [M]."""
    latents_E = torch.arange(W_EM.shape[0], device=W_EM.device)
    offsets = torch.arange(0, W_EM.shape[0] + ROWS_PER_PART, ROWS_PER_PART, device=W_EM.device)
    return backend_of(W_EM).weighted_sums(latents_E, W_EM, offsets.clamp(max=W_EM.shape[0]), weights_E).sum(0)


def offsets_of(counts: Tensor) -> Tensor:
    """Where each stretch begins, and where the last one ends: 0 and the running sums of counts."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))
