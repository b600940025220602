"""What runs lie in a folder, and which stores they were trained on, from their records."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.paths import data_root
from strata_sae.pipeline.runs.chain import read_config, read_training
from strata_sae.pipeline.runs.claims import living
from strata_sae.pipeline.runs.evaluation_records import Metrics
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.record_files import YAML_HEAD, read_record, read_yaml
from strata_sae.pipeline.runs.records import Ending, SAERecord
from strata_sae.pipeline.strict_yaml import parse
from strata_sae.stores import MANIFEST
from strata_sae.stores.files.deletion import content_of, half_deleted
from strata_sae.stores.files.hashing import file_sha256


class Best(NamedTuple):
    """The scores of the SAE of a run with the highest R2."""

    r2: float
    l0: float


class RunRow(NamedTuple):
    """A folder that holds a run, or what is left of one."""

    name: str
    problem: str = ""
    """Why the rest is not known, or the first record that is damaged; empty if nothing is wrong."""
    changed: float | None = None
    """When a record of it was last written: seconds since 1970, of the files' times."""
    begun: int = 0
    """SAEs with a config.json."""
    finished: int = 0
    diverged: int = 0
    sites: tuple[str, ...] = ()
    """Sites and routes, by name."""
    best: Best | None = None
    n_bytes: int = 0
    stores: Mapping[str, Path | None] = MappingProxyType({})
    """Ids of the stores that its SAEs were trained on -> where each lies; None: not found."""


def is_run(path: Path) -> bool:
    """Whether a folder is a run's: it holds an SAE that was begun, or the config that training writes first."""
    if any(path.glob("variants/*@*/config.json")):
        return True
    try:
        with RunFolder(path).config.open("rb") as file:
            return file.read(len(YAML_HEAD)) == YAML_HEAD.encode()
    except OSError:
        return False


def list_runs(folder: Path) -> list[RunRow]:
    """The runs in a folder, by name; a damaged one, or what a deletion left of one, is a row with its problem.

    Raises: ConfigError if there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"FOLDER: {folder}: no such folder; runs lie in runs/, from where they were trained")
    paths = _runs_in(folder)
    stores = _stores(paths)
    rows = [_row(path, stores) for path in paths]
    for name, path in half_deleted(folder):
        told = f"half deleted; runs delete {folder / name} removes the rest"
        rows.append(RunRow(name, told, n_bytes=content_of(path).n_bytes))
    return sorted(rows, key=lambda row: row.name)


class RunOfAStore(NamedTuple):
    """A run with SAEs that were trained on a store."""

    path: Path
    n_saes: int
    is_written: bool
    """Whether a process writes it now."""


def runs_of_store(store_id: str, folders: Iterable[Path]) -> list[RunOfAStore]:
    """The runs in these folders that refer to a store, as far as their records can be read."""
    found = []
    for folder in sorted({folder.resolve() for folder in folders if folder.is_dir()}):
        for path in _runs_in(folder):
            n_saes = sum(store_id in _stores_of(config) for config in _configs(RunFolder(path)))
            if n_saes:
                found.append(RunOfAStore(path, n_saes, bool(living(RunFolder(path)))))
    return found


def _runs_in(folder: Path) -> list[Path]:
    """The runs in a folder, without what deletions left."""
    return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and is_run(path)]


def _row(path: Path, stores: dict[str, Path]) -> RunRow:
    run = RunFolder(path)
    folders = _begun(run)
    problems: list[str] = []
    configs: list[SAERecord] = []
    endings: list[Ending] = []
    scores: list[Best] = []
    for folder in folders:
        try:
            config = read_config(folder).record
            configs.append(config)
            if folder.training.exists():
                endings.append(read_training(folder, config).record)
            if folder.metrics.exists():
                scores += _best(read_record(folder.metrics, Metrics).record)
        except CheckpointError as error:
            problems.append(str(error).partition("\n")[0])
    times = [file.stat().st_mtime for folder in folders for file in folder.path.glob("*.json")]
    used = sorted({store_id for config in configs for store_id in _stores_of(config)})
    return RunRow(
        name=path.name,
        problem=problems[0] if problems else "",
        changed=max([*times, *(file.stat().st_mtime for file in path.glob("config.yaml"))], default=None),
        begun=len(folders),
        finished=sum(ending.status == "finished" for ending in endings),
        diverged=sum(ending.status == "diverged" for ending in endings),
        sites=tuple(sorted({folder.site for folder in folders})),
        best=max(scores, default=None),
        n_bytes=content_of(path).n_bytes,
        stores={store_id: stores.get(store_id) for store_id in used},
    )


def _best(metrics: Metrics) -> list[Best]:
    r2, l0 = (found.value if (found := metrics.metrics.get(name)) else None for name in ("r2_pooled", "l0"))
    return [] if r2 is None or l0 is None else [Best(r2, l0)]


def _begun(run: RunFolder) -> list[VariantFolder]:
    return [VariantFolder(path.parent) for path in sorted(run.path.glob("variants/*@*/config.json"))]


def _configs(run: RunFolder) -> Iterator[SAERecord]:
    """The configs of a run's SAEs that can be read."""
    for folder in _begun(run):
        try:
            yield read_config(folder).record
        except CheckpointError:
            continue


def _stores_of(config: SAERecord) -> set[str]:
    return {config.store_id, *config.store_ids.values()}


def _stores(runs: list[Path]) -> dict[str, Path]:
    """Store id -> folder, of the finished stores that these runs could have read: in data/, and at `store.path`."""
    places = [path for path in data_root().glob(f"*/{MANIFEST}") if not path.parent.name.startswith(".")]
    places += [path / MANIFEST for run in runs for path in _named_store(run)]
    return {file_sha256(path): path.parent for path in sorted(places, reverse=True) if path.is_file()}


def _named_store(run: Path) -> list[Path]:
    """The folder that `store.path` of a run's config names."""
    try:
        config = parse(read_yaml(RunFolder(run).config)[0], "config.yaml")[0]
    except (CheckpointError, ConfigError):
        return []
    store = config.get("store") if isinstance(config, dict) else None
    path = store.get("path") if isinstance(store, dict) else None
    return [Path(path)] if isinstance(path, str) and "://" not in path else []
