"""All forward passes over the judged rows of a site: clean, ablated, and with the reconstruction of each SAE."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.intervention.judged_rows import Batch, JudgedRows
from strata_sae.pipeline.intervention.losses import RowLosses, Sums, clean_predictions, row_losses
from strata_sae.pipeline.intervention.passes import Passes
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.reading.document_units import DocumentUnits
from strata_sae.pipeline.runs.judging_records import FormName
from strata_sae.pipeline.runs.trained import TrainedSAE

ABLATIONS = ("zero_ablation", "mean_ablation")


class Pass(NamedTuple):
    """One kind of forward pass: what stands in the rows, and in which rows."""

    form: FormName
    what: str
    """An ablation, or the name of an SAE's folder."""


class Measured(NamedTuple):
    """Sums by document of every kind of pass over the judged rows."""

    clean: Sums
    passes: dict[Pass, Sums]
    n_rows_D: Tensor
    n_predictions_D: Tensor
    n_replaced: dict[FormName, int]


def measure(
    passes: Passes,
    rows: JudgedRows,
    todo: Sequence[TrainedSAE],
    forms: Sequence[FormName],
    documents: DocumentUnits | None,
    bar: Progress,
) -> Measured:
    """One clean pass a batch, one for each ablation, one for each SAE and form."""
    n = len(rows.documents)
    kinds = [Pass(form, what) for form in forms for what in (*ABLATIONS, *(sae.folder.name for sae in todo))]
    measured = Measured(
        Sums(n),
        {kind: Sums(n) for kind in kinds},
        torch.zeros(n).long(),
        torch.zeros(n).long(),
        dict.fromkeys(forms, 0),
    )
    with torch.inference_mode():
        for batch in rows.batches():
            _add(measured, batch, passes, rows, todo, documents, bar)
    return measured


def _add(
    measured: Measured,
    batch: Batch,
    passes: Passes,
    rows: JudgedRows,
    todo: Sequence[TrainedSAE],
    documents: DocumentUnits | None,
    bar: Progress,
) -> None:
    """Take in one batch; the clean predictions are in memory for as long as its passes run."""
    predicted, target_PM = batch.predicted, batch.target_PM
    ones_N = torch.ones_like(predicted.document_N)
    measured.n_rows_D.index_add_(0, predicted.document_N, ones_N)
    measured.n_predictions_D.index_add_(0, predicted.document_N, predicted.follows_N.long())
    passes.begin(batch.token_ids_BS, batch.position_ids_BS)

    def logits(rows_PM: Tensor) -> Tensor:
        found_BSV = passes.logits(batch.in_place(rows_PM))
        bar.advance(len(rows_PM))
        return found_BSV

    clean = clean_predictions(logits(target_PM), predicted)
    measured.clean.add(RowLosses(clean.cross_entropy_N, torch.zeros_like(clean.cross_entropy_N)), predicted)
    replaced = {form: _replaced(form, batch).to(target_PM.device)[:, None] for form in measured.n_replaced}
    for form, replaced_P in replaced.items():
        measured.n_replaced[form] += int(replaced_P.sum())
        ablated_P = torch.ones_like(replaced_P) if form == "saebench" else replaced_P
        for what, fill_M in zip(ABLATIONS, (torch.zeros_like(rows.mean_M), rows.mean_M), strict=True):
            found_BSV = logits(torch.where(ablated_P, fill_M, target_PM))
            measured.passes[Pass(form, what)].add(row_losses(found_BSV, predicted, clean), predicted)
    for trained in todo:
        units = None if documents is None else documents.of(batch.numbers_P, target_PM.device)
        xhat_PM = trained.decode(trained.encode(batch.x_PM, units), units)
        for form, replaced_P in replaced.items():
            found_BSV = logits(torch.where(replaced_P, xhat_PM, target_PM))
            measured.passes[Pass(form, trained.folder.name)].add(row_losses(found_BSV, predicted, clean), predicted)


def _replaced(form: FormName, batch: Batch) -> Tensor:
    """Whether a row is replaced: bool [P]."""
    return batch.passes_P if form == "population" else batch.ordinary_P
