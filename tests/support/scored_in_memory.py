"""A trained SAE without a folder, for scores of rows in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.evaluation.populations import Populations
from strata_sae.pipeline.evaluation.scores import Scores
from strata_sae.pipeline.reading.heldout_spans import Part, Span
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.trained import TrainedSAE
from strata_sae.pipeline.saes import ARCHITECTURES
from support.made_up_records import sae_record


def trained_in_memory(sae: dict[str, Any], weights: dict[str, Tensor], d_model: int) -> TrainedSAE:
    """Of these settings and weights."""
    architecture = ARCHITECTURES[sae["architecture"]]
    record = sae_record("sae", "site", sae, d_out=d_model)
    made = architecture(architecture.Settings.model_validate(sae), d_model, weights)
    return TrainedSAE(VariantFolder(Path("sae@site")), record, None, made, ())


def spans_in_memory(x_NM: Tensor, special_N: np.ndarray, passes_N: np.ndarray, batch_rows: int) -> list[Span]:
    """As `heldout_spans` makes them: the rows, which tokens are special, and which rows pass training's filters.

    A span has `batch_rows` rows of both parts together; documents have 1,000 rows.
    """
    found = []
    for start in range(0, len(x_NM), batch_rows):
        numbers = np.arange(start, min(start + batch_rows, len(x_NM)))
        passes, special = passes_N[numbers], special_N[numbers]
        rest = np.concatenate([numbers[~passes & ~special], numbers[special]])

        def part(rows: np.ndarray) -> Part:
            x_BM = x_NM[torch.from_numpy(rows)]
            return Part(x_BM, x_BM, rows, rows // 1000, rows % 1000, special_N[rows], np.zeros(len(rows), bool))

        found.append(Span(part(numbers[passes]), part(rest), int((~passes & ~special).sum()), passes[~special]))
    return found


def scored_in_memory(saes: list[Scores], populations: Populations, spans: list[Span]) -> list[dict[str, float | None]]:
    """Every number of each SAE over the rows that pass training's filters."""
    for span in spans:
        batch = populations.take(span)
        for scores in saes:
            scores.update(batch, [None, None])
    last, found = populations.last(), []
    for scores in saes:
        scores.finish(last)
        of_trained, _ = scores.scores_of("as_trained"), scores.scores_of("all_but_special")
        assert of_trained is not None
        found.append({name: measured.value for name, measured in of_trained.metrics.items()})
    return found
