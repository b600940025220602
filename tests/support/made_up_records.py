"""Records with made-up but possible content, from the models that stages write and read."""

from pathlib import Path
from typing import Any

from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.record_files import line_of, with_fingerprint
from strata_sae.pipeline.runs.records import (
    CurveLine,
    Ending,
    FinalHashes,
    SAEPart,
    SAERecord,
    Similarity,
    TermPart,
    Thresholds,
    TrainingPart,
)
from strata_sae.stores.files.hashing import file_sha256

RECONSTRUCTION = {"reconstruction": {"term": "reconstruction", "weight": 1.0}}


def sae_record(
    variant: str,
    site: str,
    sae: dict[str, Any],
    *,
    d_out: int,
    store_id: str = "5b" * 32,
    plan_id: str = "c4" * 32,
    objective: dict[str, dict[str, Any]] = RECONSTRUCTION,
    batch_size: int = 2048,
    n_steps: int = 6000,
) -> SAERecord:
    """config.json of an SAE at one site."""
    record = SAERecord(
        variant=variant,
        site=site,
        seed=0,
        sae=SAEPart(**sae),
        objective={name: TermPart(**settings) for name, settings in objective.items()},
        training=TrainingPart(
            batch_size=batch_size, n_steps=n_steps, break_even_density=0.15, input_scale="statistics"
        ),
        resampling=None,
        store_id=store_id,
        plan_id=plan_id,
        d_out=d_out,
        d_in=None,
        input_scale=0.04,
        reads=[],
        writes=[],
        parent=None,
        store_ids={},
        fingerprint="",
    )
    return with_fingerprint(record)


def ending(
    folder: VariantFolder,
    config: SAERecord,
    *,
    n_steps: int,
    diverged_at_step: int | None = None,
    state: str | None = None,
) -> Ending:
    """training.json that names the weights and curves that lie in the folder."""
    diverged = diverged_at_step is not None
    return Ending(
        fingerprint=config.fingerprint,
        status="diverged" if diverged else "finished",
        stopped_at_step=None,
        best_step=None,
        kept=[],
        diverged_at_step=diverged_at_step,
        reason="loss is nan" if diverged else None,
        n_steps=n_steps,
        rows=n_steps * config.training.batch_size,
        threshold=Thresholds(calibrated=None if diverged else 0.31, running_mean=0.29),
        sha256=FinalHashes(weights=file_sha256(folder.weights), curves=file_sha256(folder.curves), state=state),
    )


def curve_line(
    step: int, *, batch_size: int = 2048, similarity: Similarity | None = None, **numbers: float | None
) -> CurveLine:
    """A line of curves.jsonl; what is not given is an ordinary number."""
    usual = {
        "loss": 0.5,
        "l0": 32.0,
        "batch_r2": 0.5,
        "dead_latents": 0,
        "learning_rate": 3e-4,
        "threshold": 0.3,
        "gradient_norm": 0.4,
    }
    line = {"step": step, "rows": step * batch_size, "similarity": similarity, **usual, **numbers}
    return CurveLine.model_validate(line)


def write_lines(path: Path, lines: list[CurveLine]) -> None:
    path.write_bytes(b"".join(line_of(line) for line in lines))
