"""Published SAEs -> folders of a run, as training leaves them: records, weights in raw units, and no curves."""

import fnmatch
import logging
from collections.abc import Iterator, Sequence

from strata_sae.pipeline.config.imported import ImportedVariant
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.formats.foreign import Foreign
from strata_sae.pipeline.formats.reading import read_foreign
from strata_sae.pipeline.imports.folder import write_imported
from strata_sae.pipeline.imports.same_source import address_on_hub, changed_files
from strata_sae.pipeline.paths import place_reader_of
from strata_sae.pipeline.reading.routes import imports_of, route_in
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs.chain import check_curves, check_weights, read_config, read_training
from strata_sae.pipeline.runs.claims import waited_for
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.records import SAERecord
from strata_sae.stores import Plan, Together

log = logging.getLogger(__name__)


def import_saes(config: TrainConfig, only: Sequence[str] = ()) -> None:
    """Bring the published SAEs of a config into its run; what is there already stays, be its source gone or not.

    only: names or patterns of variants; none: all.
    Raises: ConfigError if one does not fit the store; CheckpointError if its files are damaged, or are others than
        those that were imported; StoreError.
    """
    variants = _wanted(config, only)
    if not variants:
        return
    stores, run = open_store(config), RunFolder(config.run_path())
    for name, variant in variants.items():
        if (there := _there(name, variant, run, stores)) is not None:
            log.info("%s: imported already", there.name)
            continue
        foreign = _read(name, variant)
        route = _route(name, variant, foreign, stores)
        folder = run.variant(f"{name}@{route.name}")
        with waited_for(run, folder.name):
            if _there(name, variant, run, stores) is not None:
                log.info("%s: imported by another process", folder.name)
                continue
            _refuse_taken(folder, variant, stores)
            for line in _doubts(foreign, stores.stores[0].plan):
                log.warning("%s: %s", folder.name, line)
            write_imported(folder, route, foreign, stores, config.training.break_even_density)
            log.info("%s: imported: %s", folder.name, _described(foreign))


def describe_imports(config: TrainConfig, only: Sequence[str] = ()) -> Iterator[str]:
    """A line for each published SAE: what `import_saes` would do. Files of this machine are read, nothing is fetched.

    Raises: as `import_saes`.
    """
    variants = _wanted(config, only)
    stores, run = (open_store(config), RunFolder(config.run_path())) if variants else (None, None)
    for name, variant in variants.items():
        assert stores is not None
        assert run is not None
        if (there := _there(name, variant, run, stores)) is not None:
            yield f"{there.name}: is imported already"
        elif (address := address_on_hub(variant.from_.path)) is not None:
            yield f"{name}: would be fetched and imported from {address}"
        else:
            foreign = _read(name, variant)
            route = _route(name, variant, foreign, stores)
            _refuse_taken(run.variant(f"{name}@{route.name}"), variant, stores)
            yield f"{name}@{route.name}: would be imported: {_described(foreign)}"


def _wanted(config: TrainConfig, only: Sequence[str]) -> dict[str, ImportedVariant]:
    """The imported variants that a pattern fits. One that fits nothing is refused by training."""
    return {
        name: variant
        for name, variant in config.imported_variants().items()
        if not only or any(fnmatch.fnmatchcase(name, pattern) for pattern in only)
    }


def _read(name: str, variant: ImportedVariant) -> Foreign:
    """The SAE. Raises: ConfigError if its path is none; CheckpointError if its files are not what they should be."""
    path = place_reader_of(f"variants.{name}.from.path")(variant.from_.path)
    try:
        return read_foreign(path, variant.from_.format)
    except (ConfigError, CheckpointError) as error:
        raise type(error)(f"variants.{name}.from: {error}") from None


def _there(name: str, variant: ImportedVariant, run: RunFolder, stores: Together) -> VariantFolder | None:
    """The folder that holds it already.

    Raises: CheckpointError if a file of it is not what was written, or the source or the store is another one now.
    """
    for folder, record in imports_of(run, name):
        if not variant.lies_on(route_in(record)):
            continue
        _refuse_others(folder, record, variant, stores)
        ending = read_training(folder, record).record
        check_curves(folder, ending)
        check_weights(folder, ending)
        return folder
    return None


def _refuse_others(folder: VariantFolder, record: SAERecord, variant: ImportedVariant, stores: Together) -> None:
    """Raises: CheckpointError if a folder's SAE is of other files or another store, or was read as another format."""
    imported = record.imported
    assert imported is not None
    changes = changed_files(variant.from_.path, imported)
    if variant.from_.format not in (None, imported.format):
        changes = [f"format: was {imported.format}, is {variant.from_.format}", *changes]
    recorded = record.store_ids or {record.site: record.store_id}
    for site, store_id in recorded.items():
        if site in stores.sites and (now := stores.at(site).id) != store_id:
            changes.append(f"store of {site}: was {store_id[:12]}, is {now[:12]}")
    if changes:
        raise CheckpointError(
            f"{folder.path}: was imported from other files than there are now, or for another store "
            f"({'; '.join(changes)}); delete it (strata runs delete RUN VARIANT) to import it anew, or give the "
            "variant another name"
        )


def _route(name: str, variant: ImportedVariant, foreign: Foreign, stores: Together) -> Route:
    """Whose rows it reads and writes. Raises: ConfigError if nobody says, or the store's rows are of another width."""
    sae, source, widths = foreign.sae, foreign.source, stores.sites
    route = variant.route_of(source.site, source.writes)
    if route is None:
        raise ConfigError(
            f"variants.{name}.site: the files of {source.path} do not say whose rows it reads, so name the site; the "
            f"store {stores.path} holds {', '.join(widths)}"
        )
    for key, (site,), width in (("site", route.reads, sae.d_in), ("writes", route.writes, sae.d_out)):
        if site not in widths:
            raise ConfigError(
                f"variants.{name}.{key}: {site!r} is not in the store {stores.path}, which holds {', '.join(widths)}; "
                "extract it, or name the one that the SAE is of"
            )
        if widths[site] != width:
            doing = "reads" if key == "site" else "writes"
            raise ConfigError(
                f"variants.{name}.{key}: the SAE {doing} rows of width {width}, and those of {site} in the store "
                f"{stores.path} have {widths[site]}; it is of another site or model"
            )
    if not route.is_sae and route.name in widths:
        raise ConfigError(f"variants.{name}: {route.name} is the name of a site, too; rename the site in the store")
    if variant.site is not None and source.site not in (None, variant.site):
        log.warning("%s: its files name the site %s, and the config %s, which counts", name, source.site, variant.site)
    return route


def _refuse_taken(folder: VariantFolder, variant: ImportedVariant, stores: Together) -> None:
    """Raises: CheckpointError if a folder holds an SAE that was trained, or another one that was imported.

    What an import that was cut short has left is none.
    """
    if not folder.config.exists():
        return
    record = read_config(folder).record
    if record.imported is None:
        raise CheckpointError(
            f"{folder.path}: holds an SAE that was trained here; give the imported variant another name, or delete "
            "that one (strata runs delete RUN VARIANT)"
        )
    if folder.training.exists():
        _refuse_others(folder, record, variant, stores)


def _doubts(foreign: Foreign, plan: Plan) -> Iterator[str]:
    """What may be wrong with judging an SAE on the rows of a store."""
    model = plan.provenance.get("model")
    of_store = model.get("model") if isinstance(model, dict) else None
    of_files = foreign.source.model
    if of_files and isinstance(of_store, str) and _plain(of_files) != _plain(of_store):
        yield (
            f"its files name the model {of_files[:100]}, and the store's rows are of {of_store}; if these are two "
            "models, its scores mean nothing"
        )


def _plain(model: str) -> str:
    """The name of a model without what spellings of it differ in: the owner, capitals, TransformerLens' `-small`."""
    name = model.rstrip("/").rpartition("/")[2].lower()
    return "gpt2" if name == "gpt2-small" else name


def _described(foreign: Foreign) -> str:
    sae, source = foreign.sae, foreign.source
    return f"{sae.settings.architecture}, {sae.d_sae:,} latents, from {source.format} files in {source.path}"
