"""The routes of a run's SAEs: those that its config trains, and those of what was imported."""

from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.runs.chain import read_config
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.records import SAERecord


def routes_of(config: TrainConfig) -> list[Route]:
    """Every site as an SAE reads it, then what other variants read and write. Each once, in config order.

    The sites of what is imported are known from its folder. What is not imported yet has none.
    Raises: CheckpointError if such a folder's config.json is damaged.
    """
    saes = [Route((site,), (site,)) for site in config.sae_sites()]
    own = [variant.route for variant in config.trained_variants().values() if variant.route is not None]
    run = RunFolder(config.run_path())
    imported = [route_in(record) for name in config.imported_variants() for _, record in imports_of(run, name)]
    return list(dict.fromkeys([*saes, *own, *imported]))


def sae_sites_of(config: TrainConfig) -> list[str]:
    """The sites at which a run has SAEs, imported ones included. Raises: as `routes_of`."""
    return [route.name for route in routes_of(config) if route.is_sae]


def sites_of_saes(config: TrainConfig) -> list[str]:
    """Every site that an SAE of a run reads or writes, imported ones included. Raises: as `routes_of`."""
    return list(dict.fromkeys(site for route in routes_of(config) for site in route.sites))


def imports_of(run: RunFolder, name: str) -> list[tuple[VariantFolder, SAERecord]]:
    """The folders of a variant that hold what was imported, finished ones alone, with their config.json.

    Raises: CheckpointError if a config.json is damaged.
    """
    folders = [folder for folder in run.trained() if folder.variant == name]
    found = [(folder, read_config(folder).record) for folder in folders]
    return [(folder, record) for folder, record in found if record.imported is not None]


def route_in(record: SAERecord) -> Route:
    """What the record of an SAE says that is read and written."""
    if not record.reads:
        return Route((record.site,), (record.site,))
    return Route(tuple(part.site for part in record.reads), tuple(part.site for part in record.writes))
