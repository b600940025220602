"""What a run folder holds, as plain data, once every hash in it was compared.

A file that is missing, damaged, or not what the records beside it name becomes a line in `missing`, and nothing of it
is shown.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.report.masked import masked
from strata_sae.pipeline.runs import Record, RunFolder, VariantFolder, read_record, read_yaml
from strata_sae.pipeline.runs.chain import (
    UNHASHED,
    check_curves,
    check_features,
    check_metrics,
    check_weights,
    read_config,
    read_examples,
    read_metrics,
    read_training,
)
from strata_sae.pipeline.runs.curve_lines import CurveLine, read_curves
from strata_sae.pipeline.runs.records import Environment, LoaderLine, StoreSummary
from strata_sae.pipeline.strict_yaml import parse, unparse
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import as_object, parse_json

T = TypeVar("T")


@dataclass(frozen=True)
class Trained:
    """One SAE of the run. Empty dicts and lists stand for what is not there yet, or is not shown."""

    variant: str
    site: str
    config: dict[str, Any]
    training: dict[str, Any]
    metrics: dict[str, Any]
    examples: dict[str, Any]
    curves: list[CurveLine]
    refused: bool = False
    """Whether how it ended, or its scores, are there but not shown, since something does not match."""

    @property
    def diverged(self) -> bool:
        """Whether training was stopped because the numbers ran away."""
        return self.training.get("status") == "diverged"

    @property
    def finished(self) -> bool:
        """Whether training reached its last step."""
        return self.training.get("status") == "finished"

    def value(self, metric: str) -> float | None:
        """A metric's value, None where it was not measured."""
        value: float | None = self.metrics.get("metrics", {}).get(metric, {}).get("value")
        return value


@dataclass(frozen=True)
class Run:
    """A run folder, read once."""

    name: str
    config: dict[str, Any]
    """As config.yaml says, but for the paths: where a path leads from the root, its hash stands."""
    environment: dict[str, Any]
    store: dict[str, Any]
    trained: list[Trained]
    missing: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    """What could not be checked, since it was written before records carried a hash."""
    loader: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Site -> lines of its loader's log. It may be absent, and a kill may have torn a line."""

    @property
    def config_text(self) -> str:
        """The config as YAML; nothing where there is none."""
        return unparse(self.config) if self.config else ""

    @property
    def sites(self) -> list[str]:
        """Sites with at least one SAE, in the config's order."""
        return _ordered({sae.site for sae in self.trained}, self._config_names("store", "sites"))

    @property
    def variants(self) -> list[str]:
        """Names of the variants, in the config's order."""
        return _ordered({sae.variant for sae in self.trained}, self._config_names("variants"))

    def _config_names(self, *path: str) -> list[str]:
        """The keys or items found in the config under a path of keys; none if the config is not there."""
        found: Any = self.config
        for key in path:
            found = found.get(key, {}) if isinstance(found, dict) else {}
        return [name for name in found if isinstance(name, str)] if isinstance(found, dict | list) else []

    def at(self, site: str) -> list[Trained]:
        """The SAEs of a site, in the order of `variants`."""
        return [sae for name in self.variants for sae in self.trained if (sae.variant, sae.site) == (name, site)]


def read_run(path: Path) -> Run:
    """Everything the report shows, from the files of the folder alone.

    Raises: CheckpointError if the folder holds no trained SAE at all.
    """
    variants = [VariantFolder(folder) for folder in sorted({file.parent for file in path.glob("variants/*@*/*")})]
    if not any(variant.config.is_file() for variant in variants):
        raise CheckpointError(f"{path}: no folder variants/<variant>@<site>/ with a config.json; train first")
    folder, reading = RunFolder(path), _Reading(path)
    trained = [reading.sae(variant) for variant in variants]
    return Run(
        name=path.resolve().name,
        config=reading.config(folder),
        environment=reading.record(folder.environment, lambda: read_record(folder.environment, Environment)),
        store=reading.store(folder, trained),
        trained=trained,
        missing=reading.missing,
        unchecked=reading.unchecked(),
        loader={log.stem: _whole_lines(log) for log in sorted(path.glob("loader/*.jsonl"))},
    )


class _Reading:
    """Reads one file after the other, and keeps a line for each that is not shown."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self.missing: list[str] = []
        self._unhashed: dict[str, int] = {}

    def unchecked(self) -> list[str]:
        """One line for all files that carry no hash."""
        names = [f"{name} ({n})" if n > 1 else name for name, n in sorted(self._unhashed.items())]
        return [f"{', '.join(names)}: {UNHASHED}"] if names else []

    def record(self, path: Path, read: Callable[[], Record]) -> dict[str, Any]:
        """A record's content, once `read` found nothing wrong with it."""
        if not path.exists():
            self._absent(path)
            return {}
        record = self._try(read)
        if record is None:
            return {}
        self._count(path, record.is_hashed)
        return record.data

    def config(self, folder: RunFolder) -> dict[str, Any]:
        """config.yaml, without anybody's paths."""
        if not folder.config.exists():
            self._absent(folder.config)
            return {}
        read = self._try(lambda: read_yaml(folder.config))
        if read is None:
            return {}
        self._count(folder.config, read[1])
        config = self._try(lambda: parse(read[0], folder.config.name)[0])
        return masked(config) if isinstance(config, dict) else {}

    def store(self, folder: RunFolder, trained: list[Trained]) -> dict[str, Any]:
        """store.json, if it is of the stores that the SAEs were trained on."""
        store = self.record(folder.store, lambda: read_record(folder.store, StoreSummary))
        ids = {store.get("store_id"), *store.get("siblings", {})}
        for sae in trained if store else ():
            if sae.config and sae.config["store_id"] not in ids:
                name = f"{sae.variant}@{sae.site}"
                self.missing.append(f"store.json: is of another store than {name} was trained on; run evaluate")
                return {}
        return masked(store)

    def sae(self, folder: VariantFolder) -> Trained:
        """One SAE. What follows in the chain from a file that is not shown is not shown, either."""
        config = self.record(folder.config, lambda: read_config(folder))
        training = self.record(folder.training, lambda: read_training(folder, config)) if config else {}
        metrics: dict[str, Any] = {}
        examples: dict[str, Any] = {}
        if training:
            whole = self._holds(folder.weights, lambda: check_weights(folder, training))
            if training["status"] == "finished" or folder.metrics.exists():
                metrics = self._metrics(folder, config, training) if whole else {}
            if metrics:
                examples = self.record(folder.examples, lambda: read_examples(folder, metrics))
        return Trained(
            variant=folder.variant,
            site=folder.site,
            config=masked(config),
            training=training,
            metrics=metrics,
            examples=examples,
            curves=self._curves(folder, training),
            refused=any(
                path.exists() and not shown for path, shown in ((folder.training, training), (folder.metrics, metrics))
            ),
        )

    def _metrics(self, folder: VariantFolder, config: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
        def read() -> Record:
            record = read_metrics(folder)
            check_metrics(folder, record.data, config, training)
            return record

        metrics = self.record(folder.metrics, read)
        whole = not metrics or self._holds(folder.features, lambda: check_features(folder, metrics))
        return metrics if whole else {}

    def _curves(self, folder: VariantFolder, training: dict[str, Any]) -> list[CurveLine]:
        if folder.training.exists() and not training:
            return []  # what they should be is not known
        if training and not self._holds(folder.curves, lambda: check_curves(folder, training)):
            return []
        if not folder.curves.exists():
            if not training:
                self._absent(folder.curves)
            return []
        return self._try(lambda: read_curves(folder.curves)) or []

    def _holds(self, path: Path, check: Callable[[], None]) -> bool:
        """Whether a file is absent, which is said, or what it should be."""
        if not path.exists():
            self._absent(path)
            return True
        return self._try(lambda: _true(check)) is not None

    def _try(self, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except (CheckpointError, ConfigError) as error:
            self.missing.append(str(error).replace(f"{self._run}/", "").removeprefix("variants/"))
            return None

    def _absent(self, path: Path) -> None:
        self.missing.append(f"{_short(path)}: not there")

    def _count(self, path: Path, is_hashed: bool) -> None:
        if not is_hashed:
            self._unhashed[path.name] = self._unhashed.get(path.name, 0) + 1


def _true(check: Callable[[], None]) -> bool:
    check()
    return True


def _whole_lines(log: Path) -> list[dict[str, Any]]:
    """The lines of a loader's log that are whole; a kill may have torn others, and nothing rests on them."""
    found = []
    try:
        lines = log.read_bytes().splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            record = as_object(parse_json(line, log))
            LoaderLine.model_validate(record)
        except (StoreError, ValueError):  # pydantic's errors are ValueErrors
            continue
        found.append(record)
    return found


def _ordered(present: set[str], known: list[str]) -> list[str]:
    """Those present, in the order of `known`, then the others by name."""
    first = [name for name in dict.fromkeys(known) if name in present]
    return first + sorted(present - set(first))


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}" if "@" in path.parent.name else path.name
