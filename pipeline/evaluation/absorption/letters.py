"""Absorption of one SAE in the rows of one seed, with one kind of probes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.evaluation.absorption.latents import f1, letter_latents
from strata_sae.pipeline.evaluation.absorption.measure import absorbed, cosines_with, folded, projections_on
from strata_sae.pipeline.evaluation.absorption.probes import (
    CODE_PENALTY,
    CODE_TRAINING,
    ROW_PENALTY,
    ROW_TRAINING,
    Probe,
    minimum,
    sparse_minimum,
    trained,
)
from strata_sae.pipeline.reading.first_letters import ASKED_AGAIN, LETTERS, TEST, TRAIN
from strata_sae.pipeline.runs.absorption_records import LetterAbsorption, ProbesName, SeedAbsorption

LEAST_PROBE_F1 = 0.6
"""A letter is kept if the probe of the rows has a larger F1 on the test words."""


class SeedRows(NamedTuple):
    """Rows of the words of one seed, float32, on the processor, and their letters by place in LETTERS."""

    seed: int
    store_id: str
    train_NM: Tensor
    test_NM: Tensor
    asked_again_NM: Tensor
    """The test words, in the same order, in other prompts."""
    train_letter_N: Tensor
    test_letter_N: Tensor

    @classmethod
    def of(cls, seed: int, store_id: str, x_NM: Tensor, letter_N: Tensor, part_N: Tensor) -> "SeedRows":
        """All rows of a labelled store, parted."""
        train_N, test_N, again_N = (part_N == part for part in (TRAIN, TEST, ASKED_AGAIN))
        letters = letter_N[train_N].long(), letter_N[test_N].long()
        return cls(seed, store_id, x_NM[train_N], x_NM[test_N], x_NM[again_N], *letters)

    def letters(self) -> list[int]:
        """Those with a word for training and one for testing; none if all training words begin alike."""
        trained_on = set(self.train_letter_N.tolist())
        return sorted(trained_on & set(self.test_letter_N.tolist())) if len(trained_on) > 1 else []


class RowProbe(NamedTuple):
    """What tells letters by rows; the same for every SAE of a site."""

    probes: ProbesName
    letters: list[int]
    probe: Probe
    finds_NC: Tensor
    """Whether it says of a test word, rightly, that it begins with a letter: bool [N, C]."""
    f1_C: list[float]


class Codes(NamedTuple):
    """An SAE's codes of the rows of a seed, decoder norms folded in, and its decoder."""

    train_NE: Tensor
    test_NE: Tensor
    asked_again_NE: Tensor
    W_dec_EM: Tensor

    @classmethod
    def of(cls, codes: Sequence[Tensor], W_dec_EM: Tensor) -> "Codes":
        """Of the codes as the SAE gives them, of the three parts in their order."""
        train_NE, test_NE, asked_again_NE = (folded(part_NE, W_dec_EM) for part_NE in codes)
        return cls(train_NE, test_NE, asked_again_NE, W_dec_EM)


def row_probe(rows: SeedRows, probes: ProbesName) -> RowProbe:
    """The probe of the rows: at the minimum of its objective, or trained as SAEBench trains it."""
    letters = rows.letters()
    train_is_NC, test_is_NC = (
        _one_column_each(rows.train_letter_N, letters),
        _one_column_each(rows.test_letter_N, letters),
    )
    if probes == "own":
        probe = minimum(rows.train_NM, train_is_NC, ROW_PENALTY)
    else:
        probe = trained(rows.train_NM, train_is_NC, ROW_PENALTY, ROW_TRAINING, _generator(rows.seed))
    says_NC = probe.logits(rows.test_NM) > 0
    scores = [f1(says_N, is_N) for says_N, is_N in zip(says_NC.T, test_is_NC.T, strict=True)]
    return RowProbe(probes, letters, probe, says_NC & test_is_NC, scores)


def seed_absorption(rows: SeedRows, probe: RowProbe, codes: Codes, min_letters: int) -> SeedAbsorption:
    """Absorption of the letters that the rows tell; not a number where they are fewer than `min_letters`."""
    train_is_NC = _one_column_each(rows.train_letter_N, probe.letters)
    test_is_NC = _one_column_each(rows.test_letter_N, probe.letters)
    is_own = probe.probes == "own"
    if is_own:
        ranking = sparse_minimum(codes.train_NE, train_is_NC, CODE_PENALTY)
    else:
        generator = _generator(rows.seed)
        ranking = trained(codes.train_NE, train_is_NC, CODE_PENALTY, CODE_TRAINING, generator)
    kept, without, one_latent = [], [], []
    for column, letter in enumerate(probe.letters):
        found = letter_latents(
            ranking.W_CM[column],
            codes.train_NE,
            train_is_NC[:, column],
            codes.test_NE,
            test_is_NC[:, column],
            only_positive=is_own,
        )
        one_latent.append(found.one_latent_f1)
        if probe.f1_C[column] <= LEAST_PROBE_F1:
            continue
        if not found.latents:
            without.append(LETTERS[letter])
            continue
        fraction_N, is_full_N = of_letter(rows, probe, codes, column, found.latents)
        kept.append(
            LetterAbsorption(
                letter=LETTERS[letter],
                probe_f1=probe.f1_C[column],
                one_latent_f1=found.one_latent_f1,
                latents=found.latents,
                n_words=len(fraction_N),
                fraction=float(fraction_N.mean()),
                full=float(is_full_N.double().mean()),
            )
        )
    return SeedAbsorption(
        seed=rows.seed,
        labelled_store_id=rows.store_id,
        n_rows=len(rows.train_NM) + len(rows.test_NM) + len(rows.asked_again_NM),
        n_letters=len(probe.letters),
        probe_f1=_mean(probe.f1_C),
        one_latent_f1=_mean(one_latent),
        is_converged=(probe.probe.is_converged and ranking.is_converged) if is_own else None,
        n_words=sum(letter.n_words for letter in kept),
        without_latent=without,
        letters=kept,
        **_means(kept, min_letters),
    )


def of_letter(
    rows: SeedRows, probe: RowProbe, codes: Codes, column: int, latents: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Fraction and full absorption in each word of a letter that the probe finds, asked again in another prompt."""
    found_N, direction_M = probe.finds_NC[:, column], probe.probe.W_CM[column]
    return absorbed(
        codes.asked_again_NE[found_N],
        projections_on(direction_M, rows.asked_again_NM[found_N]),
        cosines_with(direction_M, codes.W_dec_EM),
        latents,
    )


def _means(kept: list[LetterAbsorption], min_letters: int) -> dict[str, float | None]:
    if len(kept) < max(1, min_letters):
        return {"fraction": None, "full": None, "split_latents": None}
    return {
        "fraction": _mean([letter.fraction for letter in kept]),
        "full": _mean([letter.full for letter in kept]),
        "split_latents": _mean([len(letter.latents) for letter in kept]),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _one_column_each(letter_N: Tensor, letters: Sequence[int]) -> Tensor:
    return letter_N[:, None] == torch.tensor(letters)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
