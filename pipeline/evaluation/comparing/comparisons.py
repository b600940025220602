"""comparisons.json: the SAEs of a run beside each other, by site, population and metric, as a function of its files."""

import logging

from pydantic import JsonValue

from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.evaluation.comparing.pairs import SeedGroup, all_pairs, estimate
from strata_sae.pipeline.evaluation.comparing.scored import ScoredSAE, on_same_rows, read_scored
from strata_sae.pipeline.reading.intervals import MIN_DOCUMENTS
from strata_sae.pipeline.runs.comparison_records import (
    COMPARED,
    ComparedMetric,
    ComparedSAE,
    Comparisons,
    ComparisonTable,
)
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.judging_records import POPULATIONS, PopulationName
from strata_sae.pipeline.runs.record_files import fingerprint, read_record, write_record
from strata_sae.stores.files.hashing import file_sha256

log = logging.getLogger(__name__)

PROCEDURE = 1
"""Raised when the same files give other tables, which are then written anew."""


def compare_saes(config: TrainConfig) -> None:
    """Write comparisons.json of every SAE of the run that is scored; one that fits what is there stays.

    An SAE whose files are damaged, or that was scored on other rows than the others, is left out and named.
    """
    run = RunFolder(config.run_path())
    saes, refused = read_scored(run, config)
    if not saes and not refused:
        return  # nothing is scored, which evaluate has said
    identity = _identity(saes, refused)
    if _is_compared(run, identity):
        log.info("%s: compared already", run.path)
        return
    tables = []
    for site in dict.fromkeys(sae.folder.site for sae in saes):
        for population in POPULATIONS:
            here = on_same_rows([sae for sae in saes if sae.folder.site == site], population, refused)
            if here:
                tables += [table_of(site, population, metric, here) for metric in COMPARED]
    write_record(run.comparisons, Comparisons(fingerprint=identity, tables=tables, refused=refused))
    log.info("%s: compared %d SAEs", run.path, len(saes))


def table_of(site: str, population: PopulationName, metric: ComparedMetric, saes: list[ScoredSAE]) -> ComparisonTable:
    """A metric of SAEs of one site that were scored on the same rows."""
    members: dict[str, list[ScoredSAE]] = {}
    for sae in saes:
        members.setdefault(sae.recipe, []).append(sae)
    groups = [SeedGroup(of_recipe, metric, population) for of_recipe in members.values()]
    name_of = {group.saes[0].recipe: group.name for group in groups}
    sums = saes[0].per_document.populations[population]
    pairs = all_pairs(groups)
    return ComparisonTable(
        site=site,
        population=population,
        metric=metric,
        n_documents=len(sums.documents),
        n_rows=sum(sums.n_rows),
        saes=[
            ComparedSAE(
                name=sae.folder.name,
                recipe=name_of[sae.recipe],
                seed=sae.record.seed,
                fingerprint=sae.metrics.fingerprint,
                l0=estimate("l0", *sae.parts("l0", population)),
                value=estimate(metric, *sae.parts(metric, population)),
            )
            for sae in saes
        ],
        recipes=[group.record() for group in groups],
        pairs=pairs,
        notes=_notes(len(sums.documents), any(pair.verdict == "no_interval" for pair in pairs)),
    )


def _notes(n_documents: int, lacks_interval: bool) -> list[str]:
    """What a reader must know of the table as a whole."""
    if n_documents < MIN_DOCUMENTS:
        held = "1 held-out document" if n_documents == 1 else f"{n_documents} held-out documents"
        return [f"{held}: below {MIN_DOCUMENTS} there is no interval, so nothing is ranked; hold out more documents."]
    if lacks_interval:
        return ["One held-out document outweighs all others, so there is no interval, and nothing is ranked."]
    return []


def _identity(saes: list[ScoredSAE], refused: list[str]) -> str:
    """Of everything that the tables depend on."""
    compared: list[JsonValue] = [
        {
            "name": sae.folder.name,
            "config": sae.record.fingerprint,
            "scores": sae.metrics.fingerprint,
            "per_document": file_sha256(sae.folder.per_document),
            "recipe": sae.recipe,
            "wanted": None if sae.wanted is None else [sae.wanted.l0, sae.wanted.tolerance],
        }
        for sae in saes
    ]
    return fingerprint({"procedure": PROCEDURE, "compared": compared, "refused": [*refused]})


def _is_compared(run: RunFolder, identity: str) -> bool:
    """Whether the very tables are there; tables that are damaged are written anew."""
    if not run.comparisons.exists():
        return False
    try:
        return read_record(run.comparisons, Comparisons).record.fingerprint == identity
    except CheckpointError as error:
        log.warning("%s: compared again", error)
        return False
