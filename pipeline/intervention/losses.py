"""Cross-entropy and KL of the language model's predictions, row by row, and their sums by document."""

from typing import NamedTuple

import torch
from torch import Tensor

ROWS_AT_ONCE = 64
"""Rows of logits that are worked on together (count): 13 MB at a vocabulary of 49,152, which stays in a cache."""


class Predicted(NamedTuple):
    """The rows of a batch whose predictions are measured, and what came next.

    Shapes: place_N [N], into the flat [B * S]; next_N [N], the next token's id, 0 where none follows; follows_N [N],
    whether one does; document_N [N], the place of the row's document among those of the judged sequences.
    """

    place_N: Tensor
    next_N: Tensor
    follows_N: Tensor
    document_N: Tensor


def predicted(token_ids_BS: Tensor, lengths: list[int], measured_BS: Tensor, document_BS: Tensor) -> Predicted:
    """The rows of a batch that are measured: those of `measured_BS` that are no padding.

    As SAEBench masks: a row counts by its own token. What is predicted from a special token is left out, the
    prediction of one is not.
    """
    B, S = token_ids_BS.shape
    end_B = torch.tensor(lengths)
    place_S = torch.arange(S)
    wanted_BS = measured_BS & (place_S < end_B[:, None])
    follows_BS = place_S < end_B[:, None] - 1
    next_BS = torch.cat([token_ids_BS[:, 1:], token_ids_BS.new_zeros(B, 1)], dim=1).where(follows_BS, 0)
    place_N = wanted_BS.flatten().nonzero().squeeze(1)
    return Predicted(place_N, *(of_BS.flatten()[place_N] for of_BS in (next_BS, follows_BS, document_BS)))


class Clean(NamedTuple):
    """The clean pass's predictions, which every other pass over the batch is compared with."""

    log_probs_NV: Tensor
    cross_entropy_N: Tensor


def clean_predictions(logits_BSV: Tensor, rows: Predicted) -> Clean:
    """Log-probabilities float32 [N, V] of the rows that are measured, and the cross-entropy of each."""
    logits_PV = logits_BSV.flatten(0, 1)
    place_N = rows.place_N.to(logits_PV.device)
    log_probs_NV = torch.empty(len(place_N), logits_PV.shape[1], device=logits_PV.device)
    for start in range(0, len(place_N), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        log_probs_NV[part] = _log_probs(logits_PV[place_N[part]])
    next_N = rows.next_N.to(logits_PV.device)
    return Clean(log_probs_NV, -log_probs_NV.gather(1, next_N[:, None]).squeeze(1))


class RowLosses(NamedTuple):
    """Losses of each row, float32 [N]; cross-entropy means nothing where no token follows."""

    cross_entropy_N: Tensor
    kl_N: Tensor


def row_losses(logits_BSV: Tensor, rows: Predicted, clean: Clean) -> RowLosses:
    """Cross-entropy of the next token, and KL(clean || these): sum of p (log p - log q), exactly 0 where q is p."""
    logits_PV = logits_BSV.flatten(0, 1)
    place_N, next_N = rows.place_N.to(logits_PV.device), rows.next_N.to(logits_PV.device)
    cross_entropy_N, kl_N = (torch.empty(len(place_N), device=logits_PV.device) for _ in range(2))
    for start in range(0, len(place_N), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        log_q_RV = _log_probs(logits_PV[place_N[part]])
        cross_entropy_N[part] = -log_q_RV.gather(1, next_N[part, None]).squeeze(1)
        log_p_RV = clean.log_probs_NV[part]
        difference_RV = torch.sub(log_p_RV, log_q_RV, out=log_q_RV)
        kl_N[part] = torch.linalg.vecdot(log_p_RV.exp(), difference_RV)
    return RowLosses(cross_entropy_N, kl_N)


def _log_probs(logits_RV: Tensor) -> Tensor:
    """Float32, whatever the model's precision."""
    return logits_RV.float().log_softmax(dim=-1)


class Sums:
    """Sums of the losses of one kind of pass, by document: float64 [D]."""

    def __init__(self, n_documents: int) -> None:
        self.cross_entropy_D, self.kl_D = (torch.zeros(n_documents, dtype=torch.float64) for _ in range(2))

    def add(self, losses: RowLosses, rows: Predicted) -> None:
        """Add a batch."""
        cross_entropy_N, kl_N = (of_N.double().cpu() for of_N in losses)
        self.cross_entropy_D.index_add_(0, rows.document_N[rows.follows_N], cross_entropy_N[rows.follows_N])
        self.kl_D.index_add_(0, rows.document_N, kl_N)
