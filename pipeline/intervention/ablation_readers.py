"""What is watched while latents are ablated: the latents of another SAE, or the predictions of the model.

B pairs of a sequence and a latent run together; S positions, R what is watched: latents of the reader or words.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from strata_sae.pipeline.intervention.ablation_rows import Group
from strata_sae.pipeline.intervention.losses import ROWS_AT_ONCE
from strata_sae.pipeline.intervention.passes import Passes
from strata_sae.pipeline.kernels.codes import SparseCodes
from strata_sae.pipeline.runs.trained import TrainedSAE


class Seen(NamedTuple):
    """What a batch of pairs changed: clean less ablated, summed over the counted rows of each pair."""

    effect_BR: Tensor
    """float64: of activations, or of probabilities."""
    logit_BR: Tensor | None
    """float64: of log-probabilities."""
    kl_B: Tensor | None
    """float64."""


class Reader(Protocol):
    """What is watched."""

    n: int
    """R."""
    is_of_words: bool
    """Whether `Seen.logit_BR` and `kl_B` are there."""

    def begin(self, passes: Passes, group: Group) -> None:
        """Take up a group, whose clean pass runs here; `passes` has begun it."""
        ...

    def seen(self, passes: Passes, sequence_B: Tensor, rows_BSM: Tensor, is_counted_BS: Tensor) -> Seen:
        """What other rows at the ablated site change. sequence_B: places in the group."""
        ...


class OfLatents:
    """The latents of another SAE."""

    is_of_words = False

    def __init__(self, trained: TrainedSAE, reads: Sequence[str], target: str, behind: frozenset[str]) -> None:
        """reads: sites whose rows the SAE reads; behind: those of them that run after the ablated one, `target`."""
        self.n = trained.sae.d_sae
        self._trained, self._reads, self._target, self._behind = trained, reads, target, behind

    def begin(self, passes: Passes, group: Group) -> None:
        """As `Reader.begin`."""
        G, S = group.token_ids_GS.shape
        self._group = group
        all_G = torch.arange(G, device=group.target_GSM.device)
        is_counted_GS = torch.ones(G, S, dtype=torch.bool, device=group.target_GSM.device)
        self._clean = self._codes(passes, all_G, group.target_GSM, is_counted_GS.flatten().nonzero().squeeze(1))

    def seen(self, passes: Passes, sequence_B: Tensor, rows_BSM: Tensor, is_counted_BS: Tensor) -> Seen:
        """As `Reader.seen`."""
        B, S = is_counted_BS.shape
        place_P = is_counted_BS.flatten().nonzero().squeeze(1)
        ablated, pair_P = self._codes(passes, sequence_B, rows_BSM, place_P), place_P // S
        clean = _rows_of(self._clean, sequence_B[pair_P] * S + place_P % S)
        effect = torch.zeros(B * self.n, dtype=torch.float64, device=rows_BSM.device)
        for codes, sign in ((clean, 1.0), (ablated, -1.0)):
            at_Q = pair_P[codes.rows_P.long()] * self.n + codes.indices_P.long()
            effect.index_add_(0, at_Q, codes.values_P.double(), alpha=sign)
        return Seen(effect.reshape(B, self.n), None, None)

    def _codes(self, passes: Passes, sequence_B: Tensor, rows_BSM: Tensor, place_P: Tensor) -> SparseCodes:
        """The reader's codes of some rows, given by their places in [B * S]."""
        given = {
            site: rows_BSM if site == self._target else self._group.stored[site][sequence_B] for site in self._reads
        }
        if self._behind:
            passes.take(sequence_B)
            found = passes.captured(rows_BSM)
            given |= {site: found[site] for site in self._behind}
        x_PM = torch.cat([given[site].flatten(0, 1)[place_P].float() for site in self._reads], dim=-1)
        return self._trained.encode(x_PM).to_sparse()


class OfWords:
    """The model's predictions: probabilities of all words."""

    is_of_words = True

    def __init__(self, n_words: int) -> None:
        self.n = n_words

    def begin(self, passes: Passes, group: Group) -> None:
        """As `Reader.begin`."""
        logits_PV = passes.logits(group.target_GSM).flatten(0, 1)
        self._clean_PV = torch.empty(logits_PV.shape, device=logits_PV.device)
        for start in range(0, len(logits_PV), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            self._clean_PV[part] = logits_PV[part].float().log_softmax(dim=-1)

    def seen(self, passes: Passes, sequence_B: Tensor, rows_BSM: Tensor, is_counted_BS: Tensor) -> Seen:
        """As `Reader.seen`."""
        passes.take(sequence_B)
        logits_BSV = passes.logits(rows_BSM)
        B, S = is_counted_BS.shape
        effect_BV, logit_BV = (torch.zeros(B, self.n, dtype=torch.float64, device=logits_BSV.device) for _ in range(2))
        kl_B = torch.zeros(B, dtype=torch.float64, device=logits_BSV.device)
        for pair, sequence in enumerate(sequence_B.tolist()):
            place_P = is_counted_BS[pair].nonzero().squeeze(1)
            for some_P in place_P.split(ROWS_AT_ONCE):
                log_p_PV = self._clean_PV[sequence * S + some_P]
                log_q_PV = logits_BSV[pair, some_P].float().log_softmax(dim=-1)
                p_PV = log_p_PV.exp()
                effect_BV[pair] += (p_PV - log_q_PV.exp()).sum(dim=0).double()
                difference_PV = torch.sub(log_p_PV, log_q_PV, out=log_q_PV)
                logit_BV[pair] += difference_PV.sum(dim=0).double()
                kl_B[pair] += torch.linalg.vecdot(p_PV, difference_PV).double().sum()
        return Seen(effect_BV, logit_BV, kl_B)


def _rows_of(codes: SparseCodes, row_P: Tensor) -> SparseCodes:
    """Some rows of codes, each as often as it is named."""
    counts_N, starts_N = codes.offsets.diff().long(), codes.offsets[:-1].long()
    count_P = counts_N[row_P]
    ends_P = count_P.cumsum(0)
    offsets = torch.cat([ends_P.new_zeros(1), ends_P])
    n = int(offsets[-1])
    within_Q = torch.arange(n, device=row_P.device) - offsets[:-1].repeat_interleave(count_P, output_size=n)
    place_Q = starts_N[row_P].repeat_interleave(count_P, output_size=n) + within_Q
    return SparseCodes(codes.values_P[place_Q], codes.indices_P[place_Q], offsets, codes.n_latents)
