"""Triton kernels of the sparse operations: each program sums its own entries in order, without atomic additions.

Imported only where Triton is installed. They pass their tests in Triton's interpreter; not yet timed on a GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LONGEST_BLOCK = 1024
"""Columns that a program handles at once, at most (count): float32 sums of so many fit into its registers."""


@triton.jit
def _weighted_sums_kernel(
    indices, table, offsets, weights, out, n_columns, row_stride, block: tl.constexpr, accumulate: tl.constexpr
):
    stretch = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < n_columns
    total = tl.zeros([block], dtype=accumulate)
    start, stop = tl.load(offsets + stretch), tl.load(offsets + stretch + 1)
    for entry in range(start, stop):
        row = tl.load(indices + entry).to(tl.int64)
        weight = tl.load(weights + entry).to(accumulate)
        total += weight * tl.load(table + row * row_stride + columns, mask=inside, other=0.0).to(accumulate)
    tl.store(out + stretch * n_columns + columns, total, mask=inside)


@triton.jit
def _sampled_dots_kernel(
    left, table, rows, indices, out, n_columns, left_stride, row_stride, block: tl.constexpr, accumulate: tl.constexpr
):
    entry = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + entry).to(tl.int64)
    index = tl.load(indices + entry).to(tl.int64)
    total = tl.zeros([block], dtype=accumulate)
    for first in range(0, n_columns, block):
        columns = first + tl.arange(0, block)
        inside = columns < n_columns
        one = tl.load(left + row * left_stride + columns, mask=inside, other=0.0).to(accumulate)
        total += one * tl.load(table + index * row_stride + columns, mask=inside, other=0.0).to(accumulate)
    tl.store(out + entry, tl.sum(total, axis=0))


def weighted_sums(indices_P: Tensor, table: Tensor, offsets: Tensor, weights_P: Tensor) -> Tensor:
    """For each stretch of entries, the sum of weight * table[index]. Returns: [stretches, M]."""
    n_stretches, n_columns = offsets.numel() - 1, table.shape[1]
    table = _rows_contiguous(table)
    out = table.new_empty(n_stretches, n_columns)
    block = _block(n_columns)
    _weighted_sums_kernel[(n_stretches, triton.cdiv(n_columns, block))](
        indices_P.contiguous(), table, offsets, weights_P.contiguous(), out, n_columns, table.stride(0),
        block=block, accumulate=_accumulator(table),
    )  # fmt: skip
    return out


def sampled_dots(left_BM: Tensor, W_EM: Tensor, rows_P: Tensor, indices_P: Tensor) -> Tensor:
    """<left_BM[row], W_EM[index]> of every entry. Returns: [P]."""
    out = left_BM.new_empty(indices_P.numel())
    if not out.numel():
        return out
    left_BM, W_EM = _rows_contiguous(left_BM), _rows_contiguous(W_EM)
    _sampled_dots_kernel[(out.numel(),)](
        left_BM, W_EM, rows_P.contiguous(), indices_P.contiguous(), out, left_BM.shape[1],
        left_BM.stride(0), W_EM.stride(0), block=_block(left_BM.shape[1]), accumulate=_accumulator(left_BM),
    )  # fmt: skip
    return out


def _rows_contiguous(matrix: Tensor) -> Tensor:
    # A kernel steps from row to row by a stride, but reads neighbouring columns as neighbours in memory.
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def _block(n_columns: int) -> int:
    return min(triton.next_power_of_2(n_columns), LONGEST_BLOCK)


def _accumulator(tensor: Tensor) -> tl.dtype:
    # Also sums of bfloat16 vectors are taken in float32: its 8 bits would lose all but the largest summands.
    return tl.float64 if tensor.dtype == torch.float64 else tl.float32
