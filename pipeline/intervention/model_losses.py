"""From sums by document to the record: means, recovered scores, and their intervals over documents."""

from torch import Tensor

from strata_sae.pipeline.intervention.judged_rows import JudgedRows
from strata_sae.pipeline.intervention.losses import Sums
from strata_sae.pipeline.intervention.passes import Begins
from strata_sae.pipeline.intervention.spliced import ABLATIONS, Measured, Pass
from strata_sae.pipeline.reading.intervals import ratio
from strata_sae.pipeline.runs.judging_records import (
    Estimate,
    FormLosses,
    FormName,
    Losses,
    LossesScored,
    LossSums,
    ModelMetrics,
)
from strata_sae.pipeline.runs.record_files import fingerprint


def model_metrics(
    scored_as: LossesScored, name: str, measured: Measured, rows: JudgedRows, begins: Begins
) -> ModelMetrics | None:
    """The record of one SAE, by its folder's name; None if a sum is not finite."""
    needed = [kept for kind, kept in measured.passes.items() if kind.what in (*ABLATIONS, name)]
    if not all(bool(of_D.isfinite().all()) for kept in (measured.clean, *needed) for of_D in _both(kept)):
        return None
    return ModelMetrics(
        **dict(scored_as),
        begins=begins,
        n_rows=int(measured.n_rows_D.sum()),
        n_sequence_rows=rows.n_rows,
        n_sequences=len(rows.spans),
        n_sequences_left_out=rows.n_left_out,
        n_documents=len(rows.documents),
        n_heldout_documents=rows.n_heldout_documents,
        documents=rows.documents,
        document_rows=measured.n_rows_D.tolist(),
        document_predictions=measured.n_predictions_D.tolist(),
        clean_cross_entropy=_ratio(measured.clean.cross_entropy_D, measured.n_predictions_D),
        clean_sums=measured.clean.cross_entropy_D.tolist(),
        forms={form: form_losses(form, name, measured) for form in scored_as.form_names},
        fingerprint=fingerprint(scored_as.model_dump(mode="json")),
    )


def form_losses(form: FormName, name: str, measured: Measured) -> FormLosses:
    """Losses of one SAE in one form. Every number is a ratio of sums over documents.

    Recovered: 1 exactly where the losses are those of the clean pass, 0 exactly where they are those of the ablation.
    """
    sae, zero, mean = (measured.passes[Pass(form, what)] for what in (name, "zero_ablation", "mean_ablation"))
    clean_D = measured.clean.cross_entropy_D
    return FormLosses(
        n_replaced_rows=measured.n_replaced[form],
        with_sae=_losses(sae, measured),
        zero_ablation=_losses(zero, measured),
        mean_ablation=_losses(mean, measured),
        ce_recovered=_ratio(zero.cross_entropy_D - sae.cross_entropy_D, zero.cross_entropy_D - clean_D),
        kl_recovered=_ratio(zero.kl_D - sae.kl_D, zero.kl_D),
        ce_recovered_of_mean=_ratio(mean.cross_entropy_D - sae.cross_entropy_D, mean.cross_entropy_D - clean_D),
        kl_recovered_of_mean=_ratio(mean.kl_D - sae.kl_D, mean.kl_D),
        sums={"with_sae": _sums(sae), "zero_ablation": _sums(zero), "mean_ablation": _sums(mean)},
    )


def _losses(sums: Sums, measured: Measured) -> Losses:
    cross_entropy = _ratio(sums.cross_entropy_D, measured.n_predictions_D)
    return Losses(cross_entropy=cross_entropy, kl=_ratio(sums.kl_D, measured.n_rows_D))


def _ratio(top_D: Tensor, below_D: Tensor) -> Estimate:
    # As in SAEBench, a score is one where zeros lose less than the clean pass, too: `ratio` wants a positive weight.
    sign = -1.0 if float(below_D.sum()) < 0 else 1.0
    return ratio(sign * top_D.numpy(), sign * below_D.double().numpy()).estimate


def _both(sums: Sums) -> tuple[Tensor, Tensor]:
    return sums.cross_entropy_D, sums.kl_D


def _sums(sums: Sums) -> LossSums:
    return LossSums(cross_entropy=sums.cross_entropy_D.tolist(), kl=sums.kl_D.tolist())
