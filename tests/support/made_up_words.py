"""Explanations with made-up but possible scores, in the records beside an SAE."""

import random
from pathlib import Path
from statistics import median
from typing import Any

from strata_sae.pipeline.runs.chain import read_config, read_training
from strata_sae.pipeline.runs.evaluation_records import FilterPart, Measured
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.interpretation_records import (
    ExplainedLatent,
    InterpretationRecord,
    OfKind,
    PublishedExplanation,
    PublishedRecord,
    Scored,
)
from strata_sae.pipeline.runs.judging_records import Interval
from strata_sae.pipeline.runs.record_files import write_record

SCORES = ("detection", "fuzzing", "fidelity")
EXPLAINER, SCORER = "explainer-8b", "scorer-8b"


def scored(accuracy: float, token_label: float | None, n_failed: int = 0) -> Scored:
    """Of 100 windows, as many right as the accuracy says."""
    right = round(50 * accuracy)
    share = right / 50
    return Scored(
        true_positives=right,
        false_positives=50 - right,
        true_negatives=right,
        false_negatives=50 - right,
        n_failed=n_failed,
        kinds={"zero": OfKind(n_windows=50 + n_failed, n_named=50 - right, n_failed=n_failed)},
        balanced_accuracy=share,
        interval=Interval(low=max(0.0, share - 0.1), high=min(1.0, share + 0.1)),
        precision=share,
        recall=share,
        f1=share,
        population_precision=share / 10,
        population_interval=None,
        correlation=None,
        token_label=token_label,
        lift=None if token_label is None else share - token_label,
    )


def latents(numbers: list[int], texts: list[str], seed: int = 0) -> list[ExplainedLatent]:
    """One for each number; the last has no explanation if there are more than three."""
    noise, found = random.Random(seed), []
    for place, number in enumerate(numbers):
        failed = len(numbers) > 3 and number == numbers[-1]
        accuracy = noise.uniform(0.5, 1)
        found.append(
            ExplainedLatent(
                latent=number,
                explanation=None if failed else texts[place % len(texts)],
                failure="unreadable" if failed else None,
                n_active_rows=100 + number,
                scores={} if failed else {name: scored(accuracy, 0.6, n_failed=place % 2) for name in SCORES},
                rating=None if failed else 1 + place % 5,
                rating_failure="unreadable" if failed else None,
            )
        )
    return found


def metrics(explained: list[ExplainedLatent]) -> dict[str, Measured]:
    """Medians, with intervals of a made-up width."""
    found = {}
    for name in SCORES:
        of_score = [latent.scores[name] for latent in explained if name in latent.scores]
        if not of_score:
            continue
        values = {
            f"{name}_balanced_accuracy": median(one.balanced_accuracy or 0 for one in of_score),
            f"{name}_lift": median(one.lift or 0 for one in of_score),
        }
        for metric, value in values.items():
            for end, shift in (("", 0.0), ("_low", -0.05), ("_high", 0.05)):
                definition = f"Median over latents, explained by {EXPLAINER}, scored by {SCORER}"
                found[metric + end] = Measured(value=value + shift, unit="balanced accuracy", definition=definition)
    return found


def write_words(folder: Path, explained: list[ExplainedLatent], codes_id: str = "c0" * 32, **changed: Any) -> Path:
    """interpretation.json of the SAE in a folder. Returns: its path."""
    of = VariantFolder(folder)
    config = read_config(of).record
    record = InterpretationRecord(
        sae=config.fingerprint,
        weights_sha256=read_training(of, config).record.sha256.weights,
        store_id=config.store_id,
        codes_id=codes_id,
        population="as_trained",
        filters=FilterPart(drop_bos=True, drop_special=True, drop_template=False, max_norm_multiple=None),
        explainer=EXPLAINER,
        scorer=SCORER,
        settings={"seed": 0},
        latents=explained,
        metrics=metrics(explained),
    )
    write_record(of.interpretation, record.model_copy(update=changed))
    return of.interpretation


def write_published(folder: Path, found: dict[int, str], by: str = "gpt-4o-mini", **changed: Any) -> Path:
    """published.json of the SAE in a folder. Returns: its path."""
    of = VariantFolder(folder)
    config = read_config(of).record
    record = PublishedRecord(
        sae=config.fingerprint,
        weights_sha256=read_training(of, config).record.sha256.weights,
        source="neuronpedia",
        files={"batch-0.jsonl.gz": "ab" * 32},
        n_latents=config.sae.d_sae,
        explanations=[PublishedExplanation(latent=latent, text=text, by=by) for latent, text in sorted(found.items())],
    )
    write_record(of.published, record.model_copy(update=changed))
    return of.published
