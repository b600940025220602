"""Which stores a run reads: its own, or a finished one that holds what it asks for."""

from collections.abc import Iterator
from pathlib import Path

from strata_sae.pipeline.config.run import ExtractConfig, RunConfig, differences
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.outside import outside_stores
from strata_sae.stores import MANIFEST, PLAN, ActivationStore, Plan, Together, aligned, check_opened, is_url, read_plan
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import as_object, parse_json
from strata_sae.stores.files.hashing import file_sha256

_MAY_DIFFER = ("sites", "shard_bytes", "compressor")
"""Keys of `store` that are compared with the plan itself (sites, compressor), or change no row and no batch."""


def find_store(config: RunConfig) -> Path:
    """The store of a run: its own folder if a plan is there or `store.path` names it, else a finished store beside it
    that satisfies the config, else its own folder.

    A store that SAEs of this run were trained on comes first, then the first by name.
    Raises: ConfigError where no store is there, and the config does not say what to make one of.
    """
    own = config.store_path()
    is_there = is_url(config.store.path or "") or (own / PLAN).is_file()
    if not is_there and config.toy:
        raise ConfigError(f"toy: there is no store at {own} yet; make it with the command toy, or with run")
    if not is_there and not (config.model and config.corpus):
        found = ", ".join(str(path) for path, _ in _finished(own.parent))
        raise ConfigError(
            f"store.path: there is no store at {own}, and the config has no model and corpus to make one of; set "
            f"store.path to one that is there ({f'beside it: {found}' if found else 'there is none beside it'}), or "
            f"add model and corpus"
        )
    if config.store.path is not None or is_there:
        return own
    wanted = ExtractConfig.of(config, config.name)
    satisfying = [(path, plan) for path, plan in _finished(own.parent) if satisfies(plan, wanted)]
    whole = [path for path, plan in satisfying if _is_whole(path, plan)]
    trained_on = _trained_on(config)
    return min(whole, key=lambda path: (file_sha256(path / MANIFEST) not in trained_on, path.name), default=own)


def find_siblings(config: RunConfig, store: Path) -> list[Path]:
    """Finished stores beside `store`, of the same rows, that hold the sites of the config that it lacks.

    By name, each only if it adds a site; empty if there is nothing to add.
    """
    if not (store / MANIFEST).is_file():
        return []
    base = read_plan(store)
    missing = {site for site in config.store.sites if site not in base.sites}
    found = []
    for path, plan in _finished(store.parent) if missing else ():
        if missing & plan.sites.keys() and not aligned(base, plan) and _is_whole(path, plan):
            found.append(path)
            missing -= plan.sites.keys()
    return found


def open_store(config: RunConfig, stage: Path | None = None) -> Together:
    """The store of a run, and the siblings that hold the sites it lacks.

    Args:
        stage: a folder on a near disk, to which the files of the sites to train on are copied first.
    Raises: StoreError; ConfigError if `stage` lies inside a store.

    """
    if stage is not None:
        outside_stores(stage, "--stage")
    sites = config.sites_to_train_on()
    url = config.store.path if is_url(config.store.path or "") else None
    path = find_store(config)
    paths: list[str | Path] = [url] if url is not None else [path, *find_siblings(config, path)]
    return Together([ActivationStore.open(p, io=config.store.io, stage=stage, stage_sites=sites) for p in paths])


def satisfies(plan: Plan, config: ExtractConfig) -> bool:
    """Whether a store of this plan holds what the config would extract: all of its rows, in the same blocks.

    Not a slice of some rows, a shuffle, or another number format than the one that was captured: those are used by
    naming them in `store.path`.
    """
    store = config.store
    if plan.lineage is not None and not plan.lineage.order_id:
        return False
    if (plan.encoding, plan.compressor) != (store.encoding, store.compressor):
        return False
    recorded = plan.config.get("store")
    if not set(store.sites) <= plan.sites.keys() or not isinstance(recorded, dict):
        return False
    # A store that keeps the unembedding serves whoever does not ask for it.
    may_differ = _MAY_DIFFER if store.unembedding else (*_MAY_DIFFER, "unembedding")
    own = {key: value for key, value in recorded.items() if key in may_differ}
    return not differences(plan.config, config.extraction(**own))


def _finished(root: Path) -> Iterator[tuple[Path, Plan]]:
    for manifest in sorted(root.glob(f"*/{MANIFEST}")):
        if manifest.parent.name.startswith("."):  # what a deletion has left
            continue
        try:
            yield manifest.parent, read_plan(manifest.parent)
        except StoreError:
            continue


def _is_whole(path: Path, plan: Plan) -> bool:
    try:
        check_opened(path, plan)
    except (StoreError, OSError):
        return False
    return True


def _trained_on(config: RunConfig) -> set[str]:
    """Ids of the stores that SAEs of this run were trained on."""
    ids = set()
    for record in config.run_path().glob("variants/*/config.json"):
        try:
            ids.add(str(as_object(parse_json(record.read_bytes(), record))["store_id"]))
        except (OSError, StoreError, KeyError, ValueError):  # training refuses such a record, and says why
            continue
    return ids
