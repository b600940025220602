"""What `train --extend` needs of an imported variant: the job that would train it anew, where it lies."""

from collections.abc import Sequence

from pydantic import ValidationError

from strata_sae.pipeline.config.imported import ImportedVariant
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.config.variants import Route, Variant
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.reading.routes import imports_of, route_in
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.records import SAERecord
from strata_sae.pipeline.trainer.jobs import Job, plan_jobs
from strata_sae.stores import Together


def jobs_of_imported(config: TrainConfig, stores: Together, run: RunFolder, names: Sequence[str]) -> list[Job]:
    """For each of these imported variants a job of its SAE's settings and the variant's objective.

    Raises: ConfigError for one without an objective, that is not imported yet, or whose terms do not fit its SAE.
    """
    jobs: list[Job] = []
    for name in names:
        imported = config.imported_variants()[name]
        if imported.objective is None:
            raise ConfigError(
                f"--extend: {name} is imported, and nothing says what to train it for; add variants.{name}.objective, "
                "such as {reconstruction: {}}"
            )
        found = [record for _, record in imports_of(run, name) if imported.lies_on(route_in(record))]
        if not found:
            raise ConfigError(f"--extend: {name} is not imported yet; run train without --extend first")
        for record in found:
            variant = _variant(name, imported, record)
            if variant.merged(config.training).input_scale == "per_document":
                raise ConfigError(
                    f"variants.{name}.training.input_scale: per_document, but its weights are of rows that nobody "
                    "standardised; set it to statistics or none"
                )
            jobs += plan_jobs(_alone(config, name, variant, route_in(record)), stores, run)
    return jobs


def _variant(name: str, imported: ImportedVariant, record: SAERecord) -> Variant:
    """The variant that would be trained to become such an SAE. Raises: ConfigError."""
    route = route_in(record)
    sites = {} if route.is_sae else {"reads": list(route.reads), "writes": list(route.writes)}
    sae = record.sae.model_dump(mode="json")
    said_of_it = {"sae": sae, "objective": imported.objective, "training": imported.training, **sites}
    try:
        return Variant.model_validate(said_of_it)
    except ValidationError as error:
        said = error.errors(include_url=False)[0]
        raise ConfigError(f"variants.{name}: {said['msg'].removeprefix('Value error, ')}") from None


def _alone(config: TrainConfig, name: str, variant: Variant, route: Route) -> TrainConfig:
    """A config that trains this variant at its site, and nothing else."""
    sites = {"sites": [route.name]} if route.is_sae else {}
    training = config.training.model_copy(update=sites)
    return config.model_copy(update={"variants": {name: variant}, "training": training})
