"""The SAEs of a run that can be compared: records, sums by document, and which of them are equal but for the seed."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from strata_sae.pipeline.config.knobs import knob_of
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.reading.intervals import Sums
from strata_sae.pipeline.runs.chain import check_metrics, read_config, read_per_document, read_training
from strata_sae.pipeline.runs.comparison_records import ComparedMetric
from strata_sae.pipeline.runs.evaluation_records import Metrics
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.judging_records import PerDocument, PopulationName
from strata_sae.pipeline.runs.record_files import fingerprint, read_record
from strata_sae.pipeline.runs.records import SAERecord

log = logging.getLogger(__name__)

TOLERANCE = 0.02
"""How far off its target, or off each other, L0 counts as matched (share), where no setting says so."""
SAME_CENTRED = 1e-6
"""How far apart, as a share, the sums of equal rows around their mean may be: they are of float32 batches."""


@dataclass(frozen=True)
class TargetL0:
    """The L0 at which an SAE is to be compared."""

    l0: float
    tolerance: float


@dataclass(frozen=True)
class ScoredSAE:
    """An SAE with what comparisons are computed from."""

    folder: VariantFolder
    record: SAERecord
    metrics: Metrics
    per_document: PerDocument
    recipe: str
    """Equal for SAEs that are equal but for the seed."""
    wanted: TargetL0 | None

    def rows(self, population: PopulationName) -> str:
        """Equal for SAEs that were scored on the same rows, but for what the rows hold."""
        sums = self.per_document.populations[population]
        filters = self.metrics.filters.model_dump(mode="json") if population == "as_trained" else None
        return fingerprint([self.metrics.store_id, self.metrics.split, filters, [*sums.documents], [*sums.n_rows]])

    def parts(self, metric: ComparedMetric, population: PopulationName) -> tuple[Sums, Sums]:
        """Numerator and weight of a metric, by document."""
        sums = self.per_document.populations[population]
        if metric == "l0":
            return np.asarray(sums.active), np.asarray(sums.n_rows, dtype=np.float64)
        return np.asarray(sums.error_square), np.asarray(sums.centred_square)


def read_scored(run: RunFolder, config: TrainConfig) -> tuple[list[ScoredSAE], list[str]]:
    """The SAEs of a run that are scored, in the order of the config; and a line for each that cannot be compared."""
    found, refused = [], []
    order = {name: place for place, name in enumerate(config.variants)}
    folders = sorted(run.trained(), key=lambda folder: (order.get(folder.variant, len(order)), folder.variant))
    for folder in (folder for folder in folders if folder.metrics.exists()):
        try:
            found.append(_read(folder, config))
        except CheckpointError as error:
            log.warning("%s: not compared: %s", folder.name, error)
            refused.append(f"{folder.name}: {error}")
    return found, refused


def _read(folder: VariantFolder, config: TrainConfig) -> ScoredSAE:
    record = read_config(folder).record
    metrics = read_record(folder.metrics, Metrics).record
    check_metrics(folder, metrics, record, read_training(folder, record).record)
    if not folder.per_document.exists():
        raise CheckpointError(
            f"{folder.per_document}: missing, so there are no sums by document; delete {folder.metrics.name} beside it "
            "and run evaluate"
        )
    wanted = wanted_of(config, record.variant)
    sums = read_per_document(folder, metrics).record
    return ScoredSAE(folder, record, metrics, sums, recipe_of(config, record), wanted)


def on_same_rows(saes: Iterable[ScoredSAE], population: PopulationName, refused: list[str]) -> list[ScoredSAE]:
    """Those scored on the rows on which most of them were scored; a line in `refused` for each of the others."""
    groups: dict[str, list[ScoredSAE]] = {}
    for sae in saes:
        if population in sae.per_document.populations:
            groups.setdefault(sae.rows(population), []).append(sae)
    if not groups:
        return []
    most = max(groups.values(), key=len)
    first = most[0].per_document.populations[population].centred_square
    kept: list[ScoredSAE] = []
    others = [sae for group in groups.values() for sae in group if group is not most]
    for sae in most:
        centred = sae.per_document.populations[population].centred_square
        (kept if np.allclose(centred, first, rtol=SAME_CENTRED, atol=0) else others).append(sae)
    for sae in others:
        line = (
            f"{sae.folder.name}: {population}: scored on other rows than {kept[0].folder.name}, so nothing is said of "
            f"their difference; delete {sae.folder.metrics.name} of both and run evaluate"
        )
        log.warning("%s", line)
        refused.append(line)
    return kept


def wanted_of(config: TrainConfig, variant: str) -> TargetL0 | None:
    """The variant's `match`, else `evaluation.target_l0`; None where neither is set."""
    trained = config.trained_variants().get(variant)
    if trained is not None and trained.match is not None:
        return TargetL0(trained.match.l0, trained.match.tolerance)
    target = config.evaluation.target_l0
    return None if target is None else TargetL0(float(target), TOLERANCE)


def recipe_of(config: TrainConfig, record: SAERecord) -> str:
    """A hash that is equal for SAEs of one site that are equal but for the seed.

    What was imported, and what went on from it, is no seed of anything: its variant's name counts.
    Where `match` found a knob, the L0 that it was to reach counts, and not its value, which differs between seeds.
    """
    said = record.model_dump(mode="json", exclude={"variant", "seed", "fingerprint", "parent"})
    said["n_steps_before"] = record.parent.n_steps if record.parent else 0
    if record.imported is not None or record.variant.partition("+")[0] in config.imported_variants():
        said["variant"] = record.variant
    variant = config.trained_variants().get(record.variant)
    if variant is not None and (match := variant.match) is not None:
        *groups, leaf = knob_of(match, variant.sae, variant.objective).name.split(".")
        group = said
        for key in groups:
            group = group.get(key, {})
        group.pop(leaf, None)
        said["match"] = [match.l0, match.tolerance]
    return fingerprint(said)
