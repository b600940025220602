"""What a run folder holds, as plain data. A file that is missing or damaged becomes a line in `missing`."""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.artifacts import RunFolder, VariantFolder, read_json
from pipeline.errors import CheckpointError

STORE_RECORD = "store.json"


@dataclass(frozen=True)
class Trained:
    """One SAE of the run. Empty dicts and lists stand for what is not there yet."""

    variant: str
    site: str
    config: dict[str, Any]
    training: dict[str, Any]
    metrics: dict[str, Any]
    examples: dict[str, Any]
    curves: list[dict[str, Any]]

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
        value = self.metrics.get("metrics", {}).get(metric, {}).get("value")
        return value if isinstance(value, int | float) else None


@dataclass(frozen=True)
class Run:
    """A run folder, read once."""

    name: str
    config: dict[str, Any]
    config_text: str
    environment: dict[str, Any]
    store: dict[str, Any]
    trained: list[Trained]
    missing: list[str] = field(default_factory=list)
    loader: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Site -> lines of its loader's log. It may be absent, and a kill may have torn a line."""

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
    """Everything the report shows, from JSON and YAML files alone.

    Raises: CheckpointError if the folder holds no trained SAE at all.
    """
    folder = RunFolder(path)
    missing: list[str] = []
    variants = [VariantFolder(config.parent) for config in sorted(path.glob("variants/*@*/config.json"))]
    if not variants:
        raise CheckpointError(f"{path}: no folder variants/<variant>@<site>/ with a config.json; train first")
    config_text = _text(folder.config, missing)
    return Run(
        name=path.resolve().name,
        config=_config(config_text, missing),
        config_text=config_text,
        environment=_record(folder.environment, missing),
        store=_record(path / STORE_RECORD, missing),
        trained=[_trained(variant, missing) for variant in variants],
        missing=missing,
        loader={log.stem: _whole_lines(log) for log in sorted(path.glob("loader/*.jsonl"))},
    )


def _whole_lines(log: Path) -> list[dict[str, Any]]:
    found = []
    for line in _text(log, []).splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]


def _ordered(present: set[str], known: list[str]) -> list[str]:
    """Those present, in the order of `known`, then the others by name."""
    first = [name for name in dict.fromkeys(known) if name in present]
    return first + sorted(present - set(first))


def _config(text: str, missing: list[str]) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text) if text else {}
    except yaml.YAMLError as error:
        missing.append(f"config.yaml: not readable ({error})")
        return {}
    return config if isinstance(config, dict) else {}


def _trained(folder: VariantFolder, missing: list[str]) -> Trained:
    training = _record(folder.training, missing)
    diverged = training.get("status") == "diverged"
    unmeasured: list[str] = []
    metrics, examples = _record(folder.metrics, unmeasured), _record(folder.examples, unmeasured)
    if not diverged:
        missing += unmeasured
    return Trained(
        variant=folder.variant,
        site=folder.site,
        config=_record(folder.config, missing),
        training=training,
        metrics=metrics,
        examples=examples,
        curves=_curves(folder, missing),
    )


def _curves(folder: VariantFolder, missing: list[str]) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in _text(folder.curves, missing).splitlines()]
    except ValueError as error:
        missing.append(f"{_short(folder.curves)}: not readable ({error})")
        return []
    return [line for line in lines if isinstance(line, dict)]


def _record(path: Path, missing: list[str]) -> dict[str, Any]:
    if not path.exists():
        missing.append(f"{_short(path)}: not there")
        return {}
    try:
        record = read_json(path)
    except CheckpointError as error:
        missing.append(f"{_short(path)}: {error}")
        return {}
    if not isinstance(record, dict):
        missing.append(f"{_short(path)}: holds no JSON object")
        return {}
    return record


def _text(path: Path, missing: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        missing.append(f"{_short(path)}: {'not there' if isinstance(error, FileNotFoundError) else error}")
        return ""


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}" if "@" in path.parent.name else path.name
