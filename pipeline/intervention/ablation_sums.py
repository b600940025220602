"""Latents of one SAE, each set to 0 by itself: many forward passes at once, and the sums of what they change.

A row of the batch is a pair of a sequence and a latent that is active in it: the same tokens with other rows at the
site. What the SAE misses is kept: a row becomes x less the latent's code times its decoder row. Pairs of a latent and
a sequence in which it is silent change nothing and are not run, nor are layers that are not between the ablated site
and what is watched. seeds.md 2.3, `gemma_ablate`; it takes one forward pass a latent and looks at the last token alone.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.intervention.ablation_readers import Reader, Seen
from strata_sae.pipeline.intervention.ablation_rows import AblationRows, Group
from strata_sae.pipeline.intervention.edits import latent_values
from strata_sae.pipeline.intervention.passes import Passes
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.runs.effect_records import AblatedLatent
from strata_sae.pipeline.runs.trained import TrainedSAE

N_KEPT = 1000
"""Effects of a latent that are kept (count)."""
SUMS_BYTES = 2**27
"""What the sums in memory take: four numbers of 8 bytes for each latent and each thing that is watched."""
BATCH_BYTES = 2**26
"""What the effects of a batch take: 8 bytes for each pair and each thing that is watched."""
DEFINITION = (
    "clean less ablated, summed over the counted rows of the sequence from the latent's first active row on, over all "
    "sequences, divided by the rows on which the latent is active; standard error of that ratio over sequences"
)


class Sums:
    """Sums of L latents over sequences."""

    def __init__(self, n_latents: int, n_read: int, device: torch.device, is_of_words: bool) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.effect_LR, self.square_LR, self.times_rows_LR = (zeros(n_latents, n_read) for _ in range(3))
        self.rows_L, self.rows_square_L, self.activation_L, self.sequences_L = (zeros(n_latents) for _ in range(4))
        self.logit_LR = zeros(n_latents, n_read) if is_of_words else None
        self.kl_L = zeros(n_latents) if is_of_words else None

    def add(self, latent_B: Tensor, seen: Seen, rows_B: Tensor) -> None:
        """Add what pairs changed, each latent of which is active on so many rows of its sequence."""
        self.effect_LR.index_add_(0, latent_B, seen.effect_BR)
        self.times_rows_LR.index_add_(0, latent_B, seen.effect_BR * rows_B[:, None])
        self.square_LR.index_add_(0, latent_B, seen.effect_BR.square())
        if self.logit_LR is not None and seen.logit_BR is not None:
            self.logit_LR.index_add_(0, latent_B, seen.logit_BR)
        if self.kl_L is not None and seen.kl_B is not None:
            self.kl_L.index_add_(0, latent_B, seen.kl_B)


class PartEffects(NamedTuple):
    """The effects of the latents of a part that are kept, those of one latent after those of another: [P] each."""

    latents: list[AblatedLatent]
    reader: np.ndarray
    """uint32."""
    effect: np.ndarray
    """float32."""
    standard_error: np.ndarray
    """float32; NaN: the latent is active in one sequence."""
    log_probability: np.ndarray
    """float32; NaN: predictions were not looked at."""


def latents_of_a_block(n_read: int) -> int:
    """How many latents' sums are in memory at once (count)."""
    return max(1, SUMS_BYTES // (32 * n_read))


class Ablation:
    """Measures latents of one SAE in one model."""

    def __init__(
        self,
        passes: Passes,
        ablated: TrainedSAE,
        reader: Reader,
        rows: AblationRows,
        batch_tokens: int,
        dtype: torch.dtype,
    ) -> None:
        """batch_tokens: that run together, with padding, unless one sequence has more. dtype: the model's."""
        self._passes, self._ablated, self._reader, self._rows = passes, ablated, reader, rows
        self._batch_tokens, self._dtype = batch_tokens, dtype

    def of(self, latents: list[int], bar: Progress) -> PartEffects:
        """The effects of some latents, each named once; the bar counts pairs of a latent and a sequence."""
        device, n_block = self._ablated.sae.W_dec.device, latents_of_a_block(self._reader.n)
        found: list[PartEffects] = []
        for start in range(0, len(latents), n_block):
            block = latents[start : start + n_block]
            latents_L = torch.tensor(block, device=device)
            sums = Sums(len(block), self._reader.n, device, is_of_words=self._reader.is_of_words)
            with torch.inference_mode():
                for group in self._rows.groups(self._batch_tokens, device):
                    self._add(sums, group, latents_L, bar)
            found.append(kept_effects(block, sums))
        arrays = (np.concatenate(part) for part in list(zip(*found, strict=True))[1:])
        return PartEffects([one for part in found for one in part.latents], *arrays)

    def _add(self, sums: Sums, group: Group, latents_L: Tensor, bar: Progress) -> None:
        """Take in one group of sequences."""
        codes = self._ablated.encode(group.x_GSM.flatten(0, 1))
        z_GSL = latent_values(codes, latents_L).unflatten(0, group.is_ablated_GS.shape)
        z_GSL = z_GSL * group.is_ablated_GS[..., None]
        rows_GL = (z_GSL != 0).sum(dim=1)
        sequence_Q, latent_Q = rows_GL.nonzero(as_tuple=True)
        if not len(sequence_Q):
            return
        sums.rows_L += rows_GL.sum(dim=0)
        sums.rows_square_L += rows_GL.double().square().sum(dim=0)
        sums.sequences_L += (rows_GL > 0).sum(dim=0)
        sums.activation_L += z_GSL.double().sum(dim=(0, 1))
        self._passes.begin(group.token_ids_GS, group.position_ids_GS)
        group = group._replace(target_GSM=group.target_GSM.to(self._dtype))
        self._reader.begin(self._passes, group)
        d_LM, S = self._ablated.sae.W_dec[latents_L], group.token_ids_GS.shape[1]
        n_pairs = max(1, min(self._batch_tokens // S, BATCH_BYTES // (8 * self._reader.n)))
        for sequence_B, latent_B in zip(sequence_Q.split(n_pairs), latent_Q.split(n_pairs), strict=True):
            z_BS = z_GSL[sequence_B, :, latent_B]
            rows_BSM = group.target_GSM[sequence_B] - z_BS[..., None] * d_LM[latent_B, None]
            begun_BS = (z_BS != 0).cumsum(dim=1) > 0
            is_counted_BS = group.is_counted_GS[sequence_B] & begun_BS
            seen = self._reader.seen(self._passes, sequence_B, rows_BSM.to(self._dtype), is_counted_BS)
            sums.add(latent_B, seen, rows_GL[sequence_B, latent_B].double())
            bar.advance(len(latent_B))


def kept_effects(latents: list[int], sums: Sums) -> PartEffects:
    """The largest effects of each latent, by size, ties by the lower number; those that are 0 are none."""
    rows_L, rows_square_L, n_L = (of_L.cpu().numpy() for of_L in (sums.rows_L, sums.rows_square_L, sums.sequences_L))
    kept: list[tuple[np.ndarray, ...]] = []
    found: list[AblatedLatent] = []
    for place, latent in enumerate(latents):
        n_rows, n = rows_L[place], n_L[place]
        effect_R, square_R, times_R = (
            of_LR[place].cpu().numpy() for of_LR in (sums.effect_LR, sums.square_LR, sums.times_rows_LR)
        )
        reader = np.flatnonzero(effect_R)
        reader = reader[np.lexsort((reader, -np.abs(effect_R[reader])))][:N_KEPT]
        ratio = effect_R[reader] / max(n_rows, 1)
        # Of a ratio of sums over n sequences: n / (n - 1) * sum of (effect - ratio * rows)^2 / (sum of rows)^2.
        rest = square_R[reader] - 2 * ratio * times_R[reader] + ratio**2 * rows_square_L[place]
        scale = n / (n - 1) / n_rows**2 if n > 1 else np.nan
        logit = np.full(len(reader), np.nan)
        if sums.logit_LR is not None:
            logit = sums.logit_LR[place].cpu().numpy()[reader] / max(n_rows, 1)
        kept.append((reader, ratio, np.sqrt(np.maximum(rest, 0) * scale), logit))
        found.append(
            AblatedLatent(
                latent=latent,
                n_sequences=int(n),
                active_rows=int(n_rows),
                activation=float(sums.activation_L[place]),
                kl=None if sums.kl_L is None else float(sums.kl_L[place]),
                n_effects=len(reader),
            )
        )
    reader, *measured = (np.concatenate(part) for part in zip(*kept, strict=True))
    return PartEffects(found, reader.astype(np.uint32), *(array.astype(np.float32) for array in measured))
