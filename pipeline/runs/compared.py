"""What evaluate says of several SAEs at once, read only if it is of the scores and weights that are there."""

from collections.abc import Mapping

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs.comparison_records import Comparisons, Stability
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.record_files import Found, read_record


def read_comparisons(run: RunFolder, scores: Mapping[str, str]) -> Found[Comparisons]:
    """comparisons.json, if it is of these scores: `<variant>@<site>` -> fingerprint of metrics.json."""
    found = read_record(run.comparisons, Comparisons)
    for table in found.record.tables:
        for sae in table.saes:
            if scores.get(sae.name) != sae.fingerprint:
                raise CheckpointError(
                    f"{run.comparisons}: {sae.name}: compared by other scores than are there; run evaluate"
                )
    return found


def read_stability(run: RunFolder, weights: Mapping[str, str]) -> Found[Stability]:
    """stability.json, if it is of these weights: `<variant>@<site>` -> sha256."""
    found = read_record(run.stability, Stability)
    for recipe in found.record.recipes:
        for variant, sha256 in zip(recipe.variants, recipe.weights_sha256, strict=True):
            if weights.get(f"{variant}@{recipe.site}") != sha256:
                raise CheckpointError(
                    f"{run.stability}: {variant}@{recipe.site}: compared by other weights than are there; run evaluate"
                )
    return found
