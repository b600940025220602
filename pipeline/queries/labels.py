"""Labels that need no language model: the set of tokens that tells best when a latent fires, and how well it does.

Fitted on the documents of even number, scored on those of odd number, over the rows that pass training's filters (as
trained, of all splits). The label is the baseline that every explanation in words must beat.
"""

import logging

import numpy as np

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.kernels.machine.compiled.labels import count_tokens, token_sets
from strata_sae.pipeline.queries.label_files import DEFINITION, LEAST_ROWS, N_NAMED, TokenCounts, write_arrays
from strata_sae.pipeline.queries.label_files import Labels as Labels
from strata_sae.pipeline.queries.opened import CodedSAE, Text
from strata_sae.pipeline.queries.posting_blocks import posting_blocks
from strata_sae.pipeline.runs.evaluation_records import Measured
from strata_sae.pipeline.runs.label_records import TokenLabelRecord
from strata_sae.pipeline.runs.record_files import write_record

log = logging.getLogger(__name__)


def make_labels(sae: CodedSAE, text: Text) -> Labels:
    """The labels of all latents, from the codes. E latents.

    A set of tokens is fitted wherever a latent fires on even documents; the F1 is NaN with fewer than LEAST_ROWS active
    rows in one of the halves.
    """
    tokens, half_N = text.tokens, halves(sae, text)
    totals_V = _totals(text, half_N)
    parts = [
        token_sets(offset, rows, tokens.rank, half_N, totals_V, N_NAMED)
        for _, offset, rows, _ in posting_blocks(sae.codes)
    ]
    active, f1, size, named, counts = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    f1[(active < LEAST_ROWS).any(axis=1)] = np.nan
    return Labels(
        f1=f1[:, 1].astype(np.float32),
        f1_fit=f1[:, 0].astype(np.float32),
        n_tokens=size,
        token_ids=np.where(named < 0, np.int32(-1), tokens.ids[named]),
        token_counts=counts,
    )


def make_counts(sae: CodedSAE, text: Text) -> TokenCounts:
    """On how many rows of the population each latent fires on each token, from the codes."""
    rank, half_N, n_tokens = text.tokens.rank, halves(sae, text), len(text.tokens.ids)
    nothing = np.empty(0, np.uint32)
    pairs_V = np.zeros(n_tokens, np.int64)
    for first, offset, rows, _ in posting_blocks(sae.codes):
        count_tokens(offset, rows, rank, half_N, first, pairs_V, nothing, nothing)
    pair_offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(pairs_V)])
    latent_Q, count_Q = (np.empty(int(pair_offset[-1]), np.uint32) for _ in range(2))
    at_V = pair_offset[:-1].copy()
    for first, offset, rows, _ in posting_blocks(sae.codes):
        count_tokens(offset, rows, rank, half_N, first, at_V, latent_Q, count_Q)
    active = np.bincount(latent_Q, count_Q, minlength=sae.d_sae).astype(np.int64)
    return TokenCounts(active, _totals(text, half_N).sum(axis=0), pair_offset, latent_Q, count_Q)


def kept_labels(sae: CodedSAE, text: Text) -> Labels:
    """The labels in the file beside the codes; made and written where there are none of these codes."""
    try:
        if (labels := sae.labels) is not None and sae.token_counts is not None:
            return labels
    except CheckpointError as error:
        log.warning("%s: made again", error)
    labels, counts, of = make_labels(sae, text), make_counts(sae, text), sae.labels_of
    hashes = write_arrays(sae.folder, labels, counts)
    n_labelled = int(np.isfinite(labels.f1).sum())
    record = TokenLabelRecord(
        **of.model_dump(), n_latents=sae.d_sae, n_labelled=n_labelled, metrics=_metrics(labels), sha256=hashes
    )
    write_record(sae.folder.token_labels, record)
    sae.labels, sae.token_counts = labels, counts
    return labels


def tokens_of(sae: CodedSAE, text: Text, latent: int) -> list[int]:
    """Ids of a latent's own tokens: of its label, those on which it fires most often, at most N_NAMED."""
    kept = sae.labels
    if kept is not None:
        named = kept.token_ids[latent]
        return [int(token_id) for token_id in named[named >= 0]]
    tokens, half_N = text.tokens, halves(sae, text)
    rows = sae.codes.rows_of(latent)[0]
    totals_V = _totals(text, half_N)
    ranks = token_sets(np.array([0, len(rows)]), rows, tokens.rank, half_N, totals_V, N_NAMED)[3][0]
    return [int(tokens.ids[rank]) for rank in ranks[ranks >= 0]]


def halves(sae: CodedSAE, text: Text) -> np.ndarray:
    """In which half of the documents each row is, int8 [N]: 0 fits, 1 scores, -1 is not of the population.

    By the parity of the document's number: documents were permuted before they were numbered, and whoever reads the
    label can tell which documents it has not seen.
    """
    return np.where(sae.kept(), text.document & 1, -1).astype(np.int8)


def _totals(text: Text, half_N: np.ndarray) -> np.ndarray:
    """Rows of each token in each half, int64 [2, V]."""
    tokens = text.tokens
    return np.stack([np.bincount(tokens.rank[half_N == half], minlength=len(tokens.ids)) for half in (0, 1)])


def _metrics(labels: Labels) -> dict[str, Measured]:
    f1 = labels.f1[np.isfinite(labels.f1)].astype(np.float64)
    share_unlabelled = 1 - len(f1) / len(labels.f1)
    return {
        "token_f1": Measured(
            value=float(np.median(f1)) if len(f1) else None,
            unit="F1, 0 to 1",
            definition=f"Median over the labelled latents of {DEFINITION}.",
        ),
        "token_f1_above_half": Measured(
            value=float((f1 > 0.5).mean()) if len(f1) else None,
            unit="share of labelled latents",
            definition="Latents whose token_f1 is above 0.5.",
        ),
        "token_f1_unlabelled": Measured(
            value=share_unlabelled,
            unit="share of latents",
            definition=f"Latents that are active on fewer than {LEAST_ROWS} rows of one half of the documents.",
        ),
    }
