"""Neuronpedia's bulk layout: `<model>/<layer>-<set>/`, with features, activations and explanations by batches.

Source of the layout: `sae_dashboard/neuronpedia/neuronpedia_export.py` (SAEDashboard, commit db4839a).
"""

from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from strata_sae.pipeline.export.viewers import neuronpedia_records as records
from strata_sae.pipeline.export.viewers.beside import nearest, partners
from strata_sae.pipeline.export.viewers.chosen import bands, shown, top
from strata_sae.pipeline.export.viewers.lines import Compressed, write_lines
from strata_sae.pipeline.export.viewers.neuronpedia_records import Names, Row
from strata_sae.pipeline.export.viewers.spelling import rounded
from strata_sae.pipeline.export.viewers.subject import LatentCodes, Subject

_LATENTS_A_BATCH = 256
_TOP, _BANDS, _A_BAND = 20, 5, 5
"""Examples of a latent, as SAEDashboard's runner for Neuronpedia takes them by default."""
_BEFORE, _AFTER = 47, 16
"""Tokens around an example; theirs are whole prompts."""
_NEAR, _PARTNERS, _NEURONS, _BINS = 10, 10, 3, 40


def write(subject: Subject, out: Path) -> None:
    """Fill an empty folder."""
    of = records.names(subject)
    folder = out / of.model / of.source
    for part in ("features", "activations", "explanations"):
        (folder / part).mkdir(parents=True)
    for name, row in records.heads(subject, of, subject.run_name).items():
        write_lines(folder / f"{name}.jsonl", [row])
    near = chain.from_iterable(zip(*block, strict=True) for block in nearest(subject, _NEAR))
    with ExitStack() as files:
        for codes, (others, cosines) in zip(subject.latents("neuronpedia"), near, strict=True):
            number, first = divmod(codes.latent, _LATENTS_A_BATCH)
            if not first:
                files.close()
                features, activations, explanations = (
                    files.enter_context(closing(Compressed(folder / part / f"batch-{number}.jsonl.gz")))
                    for part in ("features", "activations", "explanations")
                )
            features.write(_feature(subject, of, codes, others, cosines))
            for row in _activations(subject, of, codes):
                activations.write(row)
            for row in _explanations(subject, of, codes.latent):
                explanations.write(row)


def _feature(subject: Subject, of: Names, codes: LatentCodes, others: np.ndarray, cosines: np.ndarray) -> Row:
    heights, edges = np.histogram(codes.values, bins=_BINS, range=(0, codes.largest or 1))
    effects = subject.effects(codes.latent)
    row = records.feature(of, codes, subject.n_kept) | {
        "hookName": subject.sae.record.site,
        "topkCosSimIndices": others.tolist(),
        "topkCosSimValues": [rounded(value) for value in cosines.tolist()],
        "freq_hist_data_bar_heights": heights.tolist(),
        "freq_hist_data_bar_values": [rounded(value) for value in ((edges[:-1] + edges[1:]) / 2).tolist()],
        "pos_str": [word for word, _ in effects.promoted],
        "pos_values": [rounded(value) for _, value in effects.promoted],
        "neg_str": [word for word, _ in effects.suppressed],
        "neg_values": [rounded(value) for _, value in effects.suppressed],
    }
    return row | _aligned(subject, codes.latent) | records.correlated(partners(subject, codes.latent, _PARTNERS))


def _aligned(subject: Subject, latent: int) -> Row:
    """The columns in which the decoder direction is largest, and each one's share of the sum of absolute values."""
    row_M = subject.sae.W_dec[latent]
    if len(subject.sae.record.writes) > 1:  # columns of several sites side by side are no neurons' numbers
        return {}
    largest = np.argsort(-row_M, kind="stable")[:_NEURONS]
    whole = float(np.abs(row_M).sum()) or 1.0
    return {
        "neuron_alignment_indices": largest.tolist(),
        "neuron_alignment_values": [rounded(value) for value in row_M[largest].tolist()],
        "neuron_alignment_l1": [rounded(value / whole) for value in row_M[largest].tolist()],
    }


def _explanations(subject: Subject, of: Names, latent: int) -> list[Row]:
    """What is known in words, and the tokens that tell best when the latent fires."""
    rows = [records.explained(of, latent, place, one) for place, one in enumerate(subject.explanations.all_of(latent))]
    if described := subject.label(latent):
        rows.append(records.explanation(of, latent, described, subject.label_score(latent)))
    return rows


def _activations(subject: Subject, of: Names, codes: LatentCodes) -> list[dict[str, JsonValue]]:
    groups = [((-1.0, codes.largest, -1.0), top(subject, codes, _TOP))] if len(codes.rows) else []
    for band in bands(subject, codes, _BANDS, _A_BAND) if len(codes.rows) else ():
        groups.append(((band.low, band.high, band.n_active / subject.n_kept), band.rows))
    return [
        records.activation(of, codes.latent, shown(subject, codes, row, _BEFORE, _AFTER), bounds)
        for bounds, rows in groups
        for row in rows
    ]
