"""What of a run is shared, and whether it may be: the files by name, each read by its own record and compared with
those that name it. The same checks are made before a push and after a pull.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import safetensors

from strata_sae.pipeline.errors import CheckpointError, ConfigError, one_line
from strata_sae.pipeline.runs import trained
from strata_sae.pipeline.runs.chain import (
    check_curves,
    check_features,
    check_match,
    check_metrics,
    read_absorption,
    read_examples,
    read_interpretation,
    read_match,
    read_model_metrics,
    read_per_document,
    read_probing,
    read_published,
    read_truth,
)
from strata_sae.pipeline.runs.compared import read_comparisons, read_stability
from strata_sae.pipeline.runs.environment import Environment
from strata_sae.pipeline.runs.evaluation_records import Metrics, StoreSummary
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.record_files import read_lines, read_record, read_yaml
from strata_sae.pipeline.runs.records import CurveLine
from strata_sae.pipeline.runs.trained import TrainedSAE
from strata_sae.pipeline.strict_yaml import parse

T = TypeVar("T")

MANIFEST = "run_manifest.json"
FORMS = ("saelens", "dictionary_learning")
"""Formats in which an SAE is sent, too, and the names of their folders beside its own files."""
_MUST = ("config.json", "training.json", "weights.safetensors", "curves.jsonl")
_MAY = (
    "metrics.json", "features.safetensors", "examples.json", "per_document.json", "model_metrics.json", "probing.json",
    "absorption.json", "truth.json", "match.json", "interpretation.json", "interpretations.csv", "published.json",
)  # fmt: skip
OF_FORMS = (
    "saelens/cfg.json", "saelens/sae_weights.safetensors", "dictionary_learning/ae.pt",
    "dictionary_learning/config.json",
)  # fmt: skip
_OF_A_RUN = (
    "config.yaml", "environment.json", "store.json", "comparisons.json", "stability.json", "report.html", "results.csv",
)  # fmt: skip
SAE_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,100}@[A-Za-z0-9_.+-]{1,190}")
"""`<variant>@<site>`, or a route in the place of the site; of an extension `<variant>+<steps>@<site>`."""
_TABLE = re.compile(r"tables/[A-Za-z0-9_.-]+\.csv")


@dataclass(frozen=True)
class SharedSAE:
    """A trained SAE, and which files of its folder may go out."""

    trained: TrainedSAE
    metrics: Metrics | None
    names: list[str]
    left_out: list[str] = field(default_factory=list)
    """A line for each file that is there and not what its records say."""

    @property
    def name(self) -> str:
        """`<variant>@<site>`."""
        return self.trained.name


@dataclass(frozen=True)
class SharedRun:
    """A run's SAEs whose training ended well, and which files beside them may go out."""

    folder: RunFolder
    saes: list[SharedSAE]
    names: list[str]
    left_out: list[str]


def refuse_unknown_names(kind: str, paths: Iterable[str], where: str) -> None:
    """Hold a manifest's list of files against what a run, or a variant, has. Raises: CheckpointError."""
    found = set(paths)
    saes = {""} if kind == "variant" else {part for path in found if (part := _sae_of(path))}
    known = {f"{sae}{name}" for sae in saes for name in (*_MUST, *_MAY, *OF_FORMS)}
    known |= set() if kind == "variant" else {path for path in found if path in _OF_A_RUN or _TABLE.fullmatch(path)}
    if unknown := sorted(found - known):
        raise CheckpointError(f"{where}: lists {unknown[0]!a}, which no {kind} has; nothing was fetched")
    missing = [f"{sae}{name}" for sae in sorted(saes) for name in _MUST if f"{sae}{name}" not in found]
    if missing or not saes:
        raise CheckpointError(f"{where}: lists no {(missing or ['SAE'])[0]}; nothing was fetched")


def _sae_of(path: str) -> str:
    """`variants/<variant>@<site>/` of a path within a run; nothing of any other."""
    parts = path.split("/")
    is_one = len(parts) > 2 and parts[0] == "variants" and SAE_NAME.fullmatch(parts[1])
    return f"variants/{parts[1]}/" if is_one else ""


def shared_sae(folder: VariantFolder) -> SharedSAE:
    """A trained SAE and its files, every one of them read.

    Raises: CheckpointError if its training has not ended well, or if its weights are not what its records say.
    """
    if not folder.training.is_file():
        raise CheckpointError(f"{folder.path}: its training has not ended; run train, which goes on, then push again")
    sae = trained.load(folder)
    if sae.training.status != "finished":
        raise CheckpointError(f"{folder.path}: its training {sae.training.status}, so this is no trained SAE to share")
    check_curves(folder, sae.training)
    read_lines(folder.curves, CurveLine)
    for name, value in sae.sae.parameters().items():
        if bool(value.isnan().any()):
            raise CheckpointError(f"{folder.weights}: {name}: holds a NaN, so these are no weights of a trained SAE")
    names = list(_MUST)
    left_out: list[str] = []
    metrics = _kept(lambda: _scores(folder, sae), left_out) if folder.metrics.is_file() else None
    names += [path.name for path in (folder.metrics, folder.features, folder.examples) if metrics and path.is_file()]
    for path, read in _measured(folder, sae, metrics):
        if path.is_file() and _kept(read, left_out) is not None:
            names.append(path.name)
    if folder.interpretation.name in names and folder.interpretations.is_file():  # a table of what the record says
        names.append(folder.interpretations.name)
    return SharedSAE(sae, metrics, names, left_out)


def _scores(folder: VariantFolder, sae: TrainedSAE) -> Metrics:
    metrics = read_record(folder.metrics, Metrics).record
    check_metrics(folder, metrics, sae.record, sae.training)
    if folder.features.exists():
        check_features(folder, metrics)
        _read_tensors(folder.features)
    if folder.examples.exists():
        read_examples(folder, metrics)
    return metrics


def _read_tensors(path: Path) -> None:
    """Raises: CheckpointError if a file holds no tensors."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            list(file.keys())
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: no tensors can be read from it ({one_line(error)})") from None


def _measured(
    folder: VariantFolder, sae: TrainedSAE, metrics: Metrics | None
) -> list[tuple[Path, Callable[[], object]]]:
    """What else may have been measured on an SAE, and how each file is read."""
    config, training = sae.record, sae.training

    def match() -> object:
        found = read_match(folder)
        check_match(folder, found.record, config, training)
        return found

    readers: list[tuple[Path, Callable[[], object]]] = [
        (folder.model_metrics, lambda: read_model_metrics(folder, config, training)),
        (folder.probing, lambda: read_probing(folder, config, training)),
        (folder.absorption, lambda: read_absorption(folder, config, training)),
        (folder.truth, lambda: read_truth(folder, config, training)),
        (folder.match, match),
        (folder.interpretation, lambda: read_interpretation(folder, config, training)),
        (folder.published, lambda: read_published(folder, config, training)),
    ]
    if metrics is not None:
        readers.append((folder.per_document, lambda: read_per_document(folder, metrics)))
    return readers


def _kept(read: Callable[[], T], left_out: list[str]) -> T | None:
    """What a file holds; None where something is wrong with it, which is said."""
    try:
        return read()
    except (CheckpointError, ConfigError) as error:
        left_out.append(str(error).partition("\n")[0])
        return None


def shared_run(folder: RunFolder) -> SharedRun:
    """A run's SAEs and its own files, every one of them read; what is wrong, or unfinished, is left out with a line.

    Raises: CheckpointError if no SAE is left.
    """
    left_out: list[str] = []
    paths = sorted(folder.path.glob("variants/*@*"))
    found = [_kept(partial(shared_sae, VariantFolder(path)), left_out) for path in paths]
    saes = [sae for sae in found if sae is not None]
    left_out += [line for sae in saes for line in sae.left_out]
    if not saes:
        raise CheckpointError(f"{folder.path}: holds no finished SAE{f' ({left_out[0]})' if left_out else ''}")
    scores = {sae.name: sae.metrics.fingerprint for sae in saes if sae.metrics}
    weights = {sae.name: sae.trained.training.sha256.weights for sae in saes}
    readers: list[tuple[Path, Callable[[], object]]] = [
        (folder.config, lambda: parse(read_yaml(folder.config)[0], folder.config.name)),
        (folder.environment, lambda: read_record(folder.environment, Environment)),
        (folder.store, lambda: read_record(folder.store, StoreSummary)),
        (folder.comparisons, lambda: read_comparisons(folder, scores)),
        (folder.stability, lambda: read_stability(folder, weights)),
    ]
    names = [path.name for path, read in readers if path.is_file() and _kept(read, left_out) is not None]
    names += [path.name for path in (folder.report, folder.results) if path.is_file()]
    tables = [f"tables/{path.name}" for path in sorted(folder.tables.glob("*.csv"))]
    return SharedRun(folder, saes, names + [name for name in tables if _TABLE.fullmatch(name)], left_out)
