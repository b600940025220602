"""Stage 1: read the language model once, and leave a finished activation store."""

import logging
import shutil
from contextlib import suppress
from pathlib import Path

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.filling import UnitFiller
from strata_sae.pipeline.extractor.plan import planned
from strata_sae.pipeline.extractor.reuse import reusable
from strata_sae.pipeline.language_model import check_isolation, load
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import ActivationStore
from strata_sae.stores.files.canonical import as_object
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.files.locks import remove_dead
from strata_sae.stores.format.plan import MANIFEST, STAGING, Plan, unit_bytes
from strata_sae.stores.writing.finishing import finish, next_unit, recover

log = logging.getLogger(__name__)


def extract(config: RunConfig, *, show_progress: bool = True) -> None:
    """Plan the store if that is not done, fill the units that are missing, finish it. A finished store is left alone.

    Where a finished store beside it already holds what the config asks for, that one is used and nothing is done.
    Any number of processes may run this on one store; what each commits, all see.
    Raises: ConfigError, or StoreError if the store is damaged or the disk is too small.
    """
    plan = to_fill(config, show_progress=show_progress)
    if plan is not None:
        fill_and_finish(config.model, config.store_path(), plan, show_progress=show_progress)


def to_fill(config: RunConfig, *, show_progress: bool) -> Plan | None:
    """The plan of the run's store, made if there is none; None where a finished store holds what the run asks for."""
    reuse = reusable(config)
    for line in reuse.lines:
        log.info("%s", line)
    if reuse.stores:
        return None
    path = config.store_path()
    plan = planned(config, show_progress=show_progress)
    if not (path / MANIFEST).is_file():
        return plan
    store_id = ActivationStore.open(path).id
    with suppress(OSError):  # outside the store's content, and a read-only store may keep it
        remove_dead(FileSystem(), path / STAGING, "")
    log.info("%s: finished before, %s rows, store %s", path, f"{plan.n_rows:,}", store_id[:12])
    return None


def fill_and_finish(settings: ModelSettings, path: Path, plan: Plan, *, show_progress: bool) -> None:
    """Run the model over the units that are missing, and finish the store."""
    files = FileSystem()
    missing = recover(files, path, plan)
    if len(missing) < plan.n_units:
        log.info("%s: %d of %d units are there; going on", path, plan.n_units - len(missing), plan.n_units)
    if missing:
        _check_space(path, plan, missing)
        _fill(settings, files, path, plan, len(missing), show_progress)
    log.info("%s: finished, %s rows, store %s", path, f"{plan.n_rows:,}", finish(files, path, plan)[:12])


def _fill(
    settings: ModelSettings, files: FileSystem, path: Path, plan: Plan, n_missing: int, show_progress: bool
) -> None:
    rows_missing = min(n_missing * plan.rows_per_unit, plan.n_rows)
    capture = load(settings, list(plan.sites))
    if as_object(plan.config["corpus"]).get("isolate_documents", False):
        check_isolation(capture)
    with Progress("extract", plan.n_rows, "token", start=plan.n_rows - rows_missing, shown=show_progress) as bar:
        filler = UnitFiller(files, path, plan, capture, bar.advance)
        taken: set[int] = set()
        while (unit := next_unit(path, plan, taken)) is not None:
            filler.fill(unit)
            taken.add(unit)
        filler.close()


def _check_space(path: Path, plan: Plan, missing: list[int]) -> None:
    needed = sum(unit_bytes(plan, unit) for unit in missing)
    free = shutil.disk_usage(path).free
    if needed > free:
        raise ConfigError(
            f"store.path: {path} needs {needed:,} more bytes and its disk has {free:,} free; "
            f"make room, then run the same command again: what is there is kept"
        )
