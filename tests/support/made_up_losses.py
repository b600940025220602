"""model_metrics.json with made-up but possible numbers."""

from pathlib import Path

import numpy as np

from strata_sae.pipeline.reading.intervals import ratio
from strata_sae.pipeline.runs.chain import read_config, read_training
from strata_sae.pipeline.runs.evaluation_records import FilterPart
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.judging_records import (
    Estimate,
    FormLosses,
    FormName,
    JudgedModel,
    Losses,
    LossSums,
    ModelMetrics,
)
from strata_sae.pipeline.runs.record_files import write_record

FORMS: list[FormName] = ["population", "saebench"]


def ratio_of_sums(top: list[float], below: list[float] | list[int]) -> Estimate:
    return ratio(np.array(top, dtype=np.float64), np.array(below, dtype=np.float64)).estimate


def losses(of: LossSums, rows: list[int]) -> Losses:
    return Losses(cross_entropy=ratio_of_sums(of.cross_entropy, rows), kl=ratio_of_sums(of.kl, rows))


def difference(one: list[float], other: list[float]) -> list[float]:
    return [a - b for a, b in zip(one, other, strict=True)]


def form(clean: list[float], rows: list[int], more: float) -> FormLosses:
    """The losses of one form. more: nat a row that the SAE loses; zeros lose 8, means 6."""

    def sums(more: float) -> LossSums:
        return LossSums(
            cross_entropy=[ce + more * n for ce, n in zip(clean, rows, strict=True)],
            kl=[(more + 0.01 * place) * n for place, n in enumerate(rows)],
        )

    sae, zero, mean = sums(more), sums(8.0), sums(6.0)
    ce_recovered, ce_recovered_of_mean = (
        ratio_of_sums(difference(one.cross_entropy, sae.cross_entropy), difference(one.cross_entropy, clean))
        for one in (zero, mean)
    )
    kl_recovered, kl_recovered_of_mean = (ratio_of_sums(difference(one.kl, sae.kl), one.kl) for one in (zero, mean))
    return FormLosses(
        n_replaced_rows=sum(rows) - 5,
        with_sae=losses(sae, rows),
        zero_ablation=losses(zero, rows),
        mean_ablation=losses(mean, rows),
        ce_recovered=ce_recovered,
        kl_recovered=kl_recovered,
        ce_recovered_of_mean=ce_recovered_of_mean,
        kl_recovered_of_mean=kl_recovered_of_mean,
        sums={"with_sae": sae, "zero_ablation": zero, "mean_ablation": mean},
    )


def made_up_losses(run: Path, name: str, *, n_documents: int = 12, worse: float = 0.0) -> None:
    """The losses of one SAE of a made-up run. worse: nat a row that it loses more than another one."""
    folder = RunFolder(run).variant(name)
    config = read_config(folder).record
    rows = [40 + 7 * place % 30 for place in range(n_documents)]
    clean = [3.0 * n + place for place, n in enumerate(rows)]

    record = ModelMetrics(
        sae=config.fingerprint,
        weights_sha256=read_training(folder, config).record.sha256.weights,
        store_id=config.store_id,
        split="heldout",
        filters=FilterPart(drop_bos=True, drop_special=True, drop_template=False, max_norm_multiple=3.0),
        model=JudgedModel(name="a-model", identity="1d" * 32, dtype="float32"),
        max_rows=1024,
        form_names=FORMS,
        begins="stored rows",
        n_rows=sum(rows),
        n_sequence_rows=sum(rows) + 9,
        n_sequences=5,
        n_sequences_left_out=0,
        n_documents=n_documents,
        n_heldout_documents=n_documents + 1,
        documents=list(range(n_documents)),
        document_rows=rows,
        document_predictions=rows,
        clean_cross_entropy=ratio_of_sums(clean, rows),
        clean_sums=clean,
        forms={"population": form(clean, rows, 0.2 + worse), "saebench": form(clean, rows, 0.9 + worse)},
        fingerprint="f1" * 32,
    )
    write_record(folder.model_metrics, record)
