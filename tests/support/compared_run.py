"""A run folder of SAEs that are scored, with sums by document as a test wants them."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.runs.evaluation_records import (
    EvaluationPart,
    FilterPart,
    Histogram,
    Measured,
    MeasuredHashes,
    Metrics,
)
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.judging_records import DocumentSums, PerDocument
from strata_sae.pipeline.runs.record_files import fingerprint, with_fingerprint, write_record
from support.made_up_records import curve_line, ending, sae_record, write_lines

SITE = "blocks.1.hook_resid_post"
D_MODEL = 16


class Documents:
    """Held-out documents of unequal length, and how hard each of them is for every SAE."""

    def __init__(self, n_documents: int) -> None:
        draw = np.random.default_rng(n_documents)
        self.n_rows_D = draw.integers(200, 1500, n_documents)
        self.hard_D = np.exp(draw.normal(0, 0.3, n_documents))
        self.centred_D = self.n_rows_D * np.exp(draw.normal(3, 0.2, n_documents))

    def sums(self, error: float, l0: float, own: float = 0.0, seed: int = 0) -> DocumentSums:
        """Of an SAE that leaves `error` of the variance on average; own: s.d. of what is hard for it alone."""
        n_documents = len(self.n_rows_D)
        own_D = np.exp(np.random.default_rng([seed, 7]).normal(0, own, n_documents))
        return DocumentSums(
            documents=list(range(n_documents)),
            n_rows=self.n_rows_D.tolist(),
            error_square=listed(self.centred_D * self.hard_D * error * own_D),
            centred_square=listed(self.centred_D),
            active=listed(self.n_rows_D * l0 * self.hard_D / np.average(self.hard_D, weights=self.n_rows_D)),
        )


def listed(values_D: NDArray[np.float64]) -> list[float]:
    return [float(value) for value in values_D]


def write_scored(
    run: Path,
    name: str,
    as_trained: DocumentSums,
    *,
    seed: int = 0,
    k: int = 4,
    all_but_special: DocumentSums | None = None,
    d_sae: int = 8,
) -> VariantFolder:
    """What train and evaluate leave of an SAE, as far as comparisons read it. k: what makes it another recipe."""
    folder = RunFolder(run).variant(f"{name}@{SITE}")
    record = sae_record(name, SITE, {"architecture": "topk", "d_sae": d_sae, "k": k}, d_out=D_MODEL)
    record = with_fingerprint(record.model_copy(update={"seed": seed}))
    write_record(folder.config, record)
    folder.weights.write_bytes(f"{name} {seed}".encode())
    write_lines(folder.curves, [curve_line(1)])
    training = ending(folder, record, n_steps=1)
    write_record(folder.training, training)
    r2 = 1 - sum(as_trained.error_square) / sum(as_trained.centred_square)
    values = {"l0": sum(as_trained.active) / sum(as_trained.n_rows), "r2_pooled": r2}
    metrics = Metrics(
        sae=record.fingerprint,
        weights_sha256=training.sha256.weights,
        store_id=record.store_id,
        split="heldout",
        filters=FilterPart(drop_bos=True, drop_special=True, drop_template=False, max_norm_multiple=None),
        evaluation=EvaluationPart(max_rows=None, example_latents=1, examples_per_latent=1, context_tokens=1),
        definitions={},
        metrics={key: Measured(value=value, unit="", definition="") for key, value in values.items()},
        density_histogram=Histogram(log10_edges=[], counts=[]),
        n_rows=sum(as_trained.n_rows),
        n_documents=len(as_trained.documents),
        top_percent_square_share=None,
        fingerprint=fingerprint([name, seed, values]),
        sha256=MeasuredHashes(features="", examples=""),
    )
    write_record(folder.metrics, metrics)
    populations = {"as_trained": as_trained, "all_but_special": all_but_special or as_trained}
    write_record(folder.per_document, PerDocument(fingerprint=metrics.fingerprint, populations=populations))
    return folder


def compared_config(**evaluation: Any) -> TrainConfig:
    """The config of the run `runs/run`."""
    variant = {"sae": {"architecture": "topk", "d_sae": 8, "k": 4}, "objective": {"reconstruction": {}}}
    return TrainConfig.model_validate(
        {
            "name": "run",
            "store": {"sites": [SITE]},
            "training": {"n_steps": 1, "warmup_steps": 0, "device": "cpu"},
            "variants": {"any": variant},
            "evaluation": evaluation,
        }
    )
