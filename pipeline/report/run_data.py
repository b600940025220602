"""What a run folder holds, once every hash in it was compared.

A file that is missing, damaged, or not what the records beside it name becomes a line in `missing`, and nothing of it
is shown.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.pages.text import masked
from strata_sae.pipeline.report.telling import in_order, once, short, told, without_paths
from strata_sae.pipeline.report.trained import Trained as Trained
from strata_sae.pipeline.runs.chain import (
    UNHASHED,
    check_curves,
    check_features,
    check_metrics,
    check_weights,
    read_config,
    read_examples,
    read_interpretation,
    read_published,
    read_token_labels,
    read_training,
)
from strata_sae.pipeline.runs.environment import Environment
from strata_sae.pipeline.runs.evaluation_records import Metrics, StoreSummary
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.interpretation_records import InterpretationRecord, PublishedRecord
from strata_sae.pipeline.runs.label_records import TokenLabelRecord
from strata_sae.pipeline.runs.migration import JsonObject
from strata_sae.pipeline.runs.record_files import Found, read_lines, read_record, read_whole_lines, read_yaml
from strata_sae.pipeline.runs.records import CurveLine, Ending, LoaderLine, Record, SAERecord
from strata_sae.pipeline.strict_yaml import parse, unparse

T = TypeVar("T")
R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Run:
    """A run folder, read once."""

    name: str
    config: JsonObject
    """As config.yaml says, but for the paths: where a path leads from the root, its hash stands."""
    environment: Environment | None
    store: StoreSummary | None
    trained: list[Trained]
    missing: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    """What could not be checked, since it was written before records carried a hash."""
    loader: dict[str, list[LoaderLine]] = field(default_factory=dict)
    """Site -> lines of its loader's log. It may be absent, and a kill may have torn a line."""
    folder: RunFolder = field(default_factory=lambda: RunFolder(Path()))
    """Where its files lie."""
    records: dict[str, Record] = field(default_factory=dict)
    """What sections read: file within the run -> record. The page has every value of each of them."""

    def read(self, path: Path, read: Callable[[], Found[R]]) -> R | None:
        """A record that a section shows; None if it is not there, or if `read` finds something wrong, which is said.

        Every value of it is then among the tables at the end of the page.
        """
        if not path.exists():
            return None
        name = path.relative_to(self.folder.path).as_posix()
        try:
            found = read()
        except (CheckpointError, ConfigError) as error:
            once(self.missing, told(error, self.folder.path))
            return None
        if not found.is_hashed:
            once(self.unchecked, f"{name}: {UNHASHED}")
        record = without_paths(found.record)
        self.records[name] = record
        return record

    @property
    def config_text(self) -> str:
        """The config as YAML; nothing where there is none."""
        return unparse(self.config) if self.config else ""

    @cached_property
    def sites(self) -> list[str]:
        """Sites with at least one SAE, in the config's order."""
        store = self.config.get("store")
        return in_order({sae.site for sae in self.trained}, store.get("sites") if isinstance(store, dict) else None)

    @cached_property
    def variants(self) -> list[str]:
        """Names of the variants, in the config's order."""
        return in_order({sae.variant for sae in self.trained}, self.config.get("variants"))

    @cached_property
    def logged(self) -> set[str]:
        """Names of the quantities that any line of any curve holds."""
        return {name for sae in self.trained for line in sae.curves for name in line.numbers()}

    @cached_property
    def imported(self) -> set[str]:
        """Names of the variants that were imported at every site."""
        trained = {sae.variant for sae in self.trained if not sae.imported}
        return {sae.variant for sae in self.trained} - trained

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
    if all(sae.imported for sae in trained):
        reading.may_lack.add(folder.environment)  # it says with what SAEs were trained
    return Run(
        name=path.resolve().name,
        config=reading.config(folder),
        environment=reading.record(folder.environment, lambda: read_record(folder.environment, Environment)),
        store=reading.store(folder, trained),
        trained=trained,
        missing=reading.missing,
        unchecked=reading.unchecked(),
        loader={log.stem: read_whole_lines(log, LoaderLine) for log in sorted(path.glob("loader/*.jsonl"))},
        folder=folder,
    )


class _Reading:
    """Reads one file after the other, and keeps a line for each that is not shown."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self.may_lack: set[Path] = set()
        """Files that nothing writes for a run like this one."""
        self.missing: list[str] = []
        self._unhashed: dict[str, int] = {}

    def unchecked(self) -> list[str]:
        """One line for all files that carry no hash."""
        names = [f"{name} ({n})" if n > 1 else name for name, n in sorted(self._unhashed.items())]
        return [f"{', '.join(names)}: {UNHASHED}"] if names else []

    def record(self, path: Path, read: Callable[[], Found[R]]) -> R | None:
        """A record, if `read` found nothing wrong with it."""
        if not path.exists():
            if path not in self.may_lack:
                self._absent(path)
            return None
        found = self._try(read)
        if found is None:
            return None
        self._count(path, found.is_hashed)
        return found.record

    def config(self, folder: RunFolder) -> JsonObject:
        """config.yaml, without anybody's paths."""
        if not folder.config.exists():
            self._absent(folder.config)
            return {}
        read = self._try(lambda: read_yaml(folder.config))
        if read is None:
            return {}
        self._count(folder.config, read[1])
        config = masked(self._try(lambda: parse(read[0], folder.config.name)[0]))
        return config if isinstance(config, dict) else {}

    def store(self, folder: RunFolder, trained: list[Trained]) -> StoreSummary | None:
        """store.json, if it is of the stores that the SAEs were trained on."""
        store = self.record(folder.store, lambda: read_record(folder.store, StoreSummary))
        if store is None:
            return None
        for sae in trained:
            if sae.config and sae.config.store_id not in {store.store_id, *store.siblings}:
                name = f"{sae.variant}@{sae.site}"
                self.missing.append(f"store.json: is of another store than {name} was trained on; run evaluate")
                return None
        return without_paths(store)

    def sae(self, folder: VariantFolder) -> Trained:
        """One SAE. What follows in the chain from a file that is not shown is not shown, either."""
        searched = folder.match.exists() and not folder.config.exists()  # there is no SAE yet, or there will be none
        config = None if searched else self.record(folder.config, lambda: read_config(folder))
        training = self.record(folder.training, lambda: read_training(folder, config)) if config else None
        metrics = self._metrics(folder, config, training) if config and training else None
        examples = self.record(folder.examples, lambda: read_examples(folder, metrics)) if metrics else None
        labels, words, published = self._of_codes(folder, config, training) if config and training else (None,) * 3
        return Trained(
            variant=folder.variant,
            site=folder.site,
            config=config and without_paths(config),
            training=training,
            metrics=metrics,
            examples=examples,
            curves=self._curves(folder, training),
            refused=any(
                path.exists() and not shown for path, shown in ((folder.training, training), (folder.metrics, metrics))
            ),
            folder=folder,
            labels=labels,
            interpretation=words,
            published=published,
        )

    def _of_codes(
        self, folder: VariantFolder, config: SAERecord, training: Ending
    ) -> tuple[TokenLabelRecord | None, InterpretationRecord | None, PublishedRecord | None]:
        """What `strata codes` and `strata interpret` write: it is not missed where it is not there."""
        self.may_lack |= {folder.token_labels, folder.interpretation, folder.published}
        return (
            self.record(folder.token_labels, lambda: read_token_labels(folder, config, training)),
            self.record(folder.interpretation, lambda: read_interpretation(folder, config, training)),
            self.record(folder.published, lambda: read_published(folder, config, training)),
        )

    def _metrics(self, folder: VariantFolder, config: SAERecord, training: Ending) -> Metrics | None:
        def read() -> Found[Metrics]:
            found = read_record(folder.metrics, Metrics)
            check_metrics(folder, found.record, config, training)
            return found

        whole = self._holds(folder.weights, lambda: check_weights(folder, training))
        if not whole or not (training.status == "finished" or folder.metrics.exists()):
            return None
        metrics = self.record(folder.metrics, read)
        if metrics is None or not self._holds(folder.features, lambda: check_features(folder, metrics)):
            return None
        return metrics

    def _curves(self, folder: VariantFolder, training: Ending | None) -> list[CurveLine]:
        if folder.training.exists() and not training:
            return []  # what they should be is not known
        if training and not self._holds(folder.curves, lambda: check_curves(folder, training)):
            return []
        if not folder.curves.exists():
            if not training and not folder.match.exists():
                self._absent(folder.curves)
            return []
        return self._try(lambda: read_lines(folder.curves, CurveLine)) or []

    def _holds(self, path: Path, check: Callable[[], None]) -> bool:
        """Whether a file is absent, which is said, or what it should be."""
        if not path.exists():
            self._absent(path)
            return True
        n_before = len(self.missing)
        self._try(check)
        return len(self.missing) == n_before

    def _try(self, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except (CheckpointError, ConfigError) as error:
            self.missing.append(told(error, self._run))
            return None

    def _absent(self, path: Path) -> None:
        self.missing.append(f"{short(path)}: not there")

    def _count(self, path: Path, is_hashed: bool) -> None:
        if not is_hashed:
            self._unhashed[path.name] = self._unhashed.get(path.name, 0) + 1
