"""The whole of one run's configuration, and what of it the plan of a store records."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Self, get_args

from pydantic import Field, GetCoreSchemaHandler, field_serializer, model_validator
from pydantic_core import CoreSchema

from strata_sae.pipeline.available import choose_device
from strata_sae.pipeline.config.corpus import NOT_RECORDED_WHERE_UNSET, SOURCES, CorpusSettings, StoreSettings
from strata_sae.pipeline.config.engine import EngineSettings, LocalSettings
from strata_sae.pipeline.config.imported import AnyVariant, ImportedVariant
from strata_sae.pipeline.config.interpretation import InterpretationSettings
from strata_sae.pipeline.config.sweep import Sweep
from strata_sae.pipeline.config.toy import ToySettings
from strata_sae.pipeline.config.tracking import TrackingSettings
from strata_sae.pipeline.config.training import EvaluationSettings, ReportSettings, TrainingSettings
from strata_sae.pipeline.config.variants import Variant, check_sites
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.objective import TERMS
from strata_sae.pipeline.objective.term import Term
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.paths import as_path, data_root, impersonal
from strata_sae.pipeline.runs.record_files import changed_keys
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import SAE
from strata_sae.pipeline.settings import ModelSettings, Name, Settings
from strata_sae.pipeline.strict_yaml import Yaml


class _Section:
    """A group of settings that may be left out; in a file it is never null."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Settings], handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(get_args(source)[0])


def _needed_for(section: str) -> str:
    """What a section that is missing is for."""
    without = " To use that one: strata train, or train --dry-run." if section in ("model", "corpus") else ""
    return f"{RunConfig.model_fields[section].description}{without}"


class RunConfig(Settings):
    """One YAML file: extract once, train many. A section that a command does not need may be left out."""

    name: Name
    """Name of the run, and of its store where `store.path` is null."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """Seed of the document order, the batches and the initial weights."""
    model: Annotated[ModelSettings | None, _Section] = None
    """The language model. Needed to make a store; one that is there holds it in its plan."""
    corpus: Annotated[CorpusSettings | None, _Section] = None
    """The text. Needed to make a store; one that is there holds it in its plan."""
    toy: Annotated[ToySettings | None, _Section] = None
    """Made-up rows in the place of a model's. Needed by the command toy, which makes a store of them."""
    store: StoreSettings
    """The activation store."""
    training: Annotated[TrainingSettings | None, _Section] = None
    """The training loop. Needed to train and to evaluate."""
    variants: dict[Name, AnyVariant] = Field(default={}, min_length=1)
    """The SAEs to train at every site, and published ones beside them, by name. Needed to train and to evaluate."""
    sweep: Sweep = Field(default=None, exclude=True)
    """A grid over every variant; `load` writes it out as variants (config/sweep.py) and removes it."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How trained SAEs are scored."""
    interpretation: InterpretationSettings = InterpretationSettings()
    """How latents are put into words (docs/interpreting.md)."""
    report: ReportSettings = ReportSettings()
    """The report's page."""
    tracking: TrackingSettings = TrackingSettings()
    """Experiment trackers (docs/tracking.md)."""
    engine: EngineSettings = LocalSettings()
    """Who extracts and trains (docs/scale.md)."""

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "RunConfig":
        if self.toy and (self.model or self.corpus):
            raise ValueError("toy: makes the rows of a store by itself; remove model and corpus, or toy")
        for site in self.sae_sites():
            if site not in self.store.sites:
                raise ValueError(f"training.sites: {site!r} is not among store.sites {self.store.sites}")
        for name, imported in self.imported_variants().items():
            for key, site in imported.sites().items():
                if site not in self.store.sites:
                    raise ValueError(
                        f"variants.{name}.{key}: {site!r} is not among store.sites {self.store.sites}; add it there"
                    )
        for name, variant in self.trained_variants().items():
            if variant.route is not None:
                check_sites(name, variant.route, self.store.sites)
            if variant.match is not None:
                places = self.store.sites if variant.route is None else [variant.route.name]
                if unknown := variant.match.first.keys() - set(places):
                    raise ValueError(
                        f"variants.{name}.match.first: {', '.join(sorted(unknown))}: is none of "
                        f"{', '.join(places)}; name these, or leave it out"
                    )
        if self.training is not None and self.training.n_steps is not None:
            # Numbers that depend on epochs are compared when the store says how many rows an epoch has.
            for name, variant in self.trained_variants().items():
                try:
                    variant.resolved(self.training)
                except ValueError as error:
                    raise ValueError(f"training of variant {name!r}: {error}") from None
        return self

    @field_serializer("toy")
    def _of_its_kind(self, toy: ToySettings | None) -> dict[str, Yaml] | None:
        return None if toy is None else toy.model_dump(mode="json")  # pydantic warns where a union of kinds is None

    @classmethod
    def of(cls, config: "RunConfig", where: Path | str) -> Self:
        """The same config as one of this class: with the sections that it requires.

        where: the file, for the error.
        Raises: ConfigError naming each section that is missing.
        """
        needed = [name for name, field in cls.model_fields.items() if field.is_required()]
        if missing := [name for name in needed if not getattr(config, name)]:
            lines = (f"{where}: {name}: missing; {_needed_for(name)}" for name in missing)
            raise ConfigError("\n".join(lines))
        # Its groups are checked already, and taken as they are.
        return cls.model_validate({name: group for name, group in config if name in config.model_fields_set})

    def trained_variants(self) -> dict[str, Variant]:
        """The variants that this run trains, by name."""
        return {name: variant for name, variant in self.variants.items() if isinstance(variant, Variant)}

    def imported_variants(self) -> dict[str, ImportedVariant]:
        """The published SAEs that take part, by name."""
        return {name: variant for name, variant in self.variants.items() if isinstance(variant, ImportedVariant)}

    def sae_sites(self) -> list[str]:
        """The sites at which SAEs are trained."""
        return (self.training and self.training.sites) or self.store.sites

    def sites_to_train_on(self) -> list[str]:
        """The sites of the SAEs, then those that other variants read and write."""
        routes = [variant.route for variant in self.trained_variants().values() if variant.route is not None]
        return list(dict.fromkeys([*self.sae_sites(), *(site for route in routes for site in route.sites)]))

    def store_path(self) -> Path:
        """Folder of this run's activation store. Raises: ConfigError if it lies inside another store."""
        path = data_root() / self.name if self.store.path is None else as_path(self.store.path, "store.path")
        return outside_stores(path, "store.path", may_be_one=True)

    def run_path(self) -> Path:
        """Folder of this run's results. Raises: ConfigError if it lies inside a store."""
        return outside_stores(Path("runs") / self.name, "name")


class ExtractConfig(RunConfig):
    """A config of which a store can be made: plan, extract."""

    model: ModelSettings
    corpus: CorpusSettings

    def extraction(self, **store: Yaml) -> dict[str, Yaml]:
        """The part that decides the store's content: plain data, the same for every run that may share the store.

        store: keys of the store section that get other values here.
        """
        return {
            "seed": self.seed,
            "model": self.model.model_dump(mode="json"),
            "corpus": self.corpus.model_dump(mode="json"),
            "store": self.store.model_dump(mode="json", exclude={*_NOT_RECORDED}) | store,
        }


class ToyConfig(RunConfig):
    """A config of which a toy's store can be made: toy."""

    toy: ToySettings


class TrainConfig(RunConfig):
    """A config of which SAEs can be trained and judged: train, evaluate."""

    training: TrainingSettings
    variants: dict[Name, AnyVariant]

    @classmethod
    def of(cls, config: RunConfig, where: Path | str) -> Self:
        """As `RunConfig.of`; where nothing is to be trained, the training section may be left out: its defaults hold.

        Of these evaluation reads the filters and the device. Raises: ConfigError.
        """
        if config.training is None and config.variants and not config.trained_variants():
            config = config.model_copy(update={"training": TrainingSettings(n_steps=1)})
        return super().of(config, where)


def follow_registries() -> None:
    """Make the union of architectures and the terms anew, from what is registered now; nothing if that is unchanged."""
    _follow(tuple(ARCHITECTURES.items()), tuple(TERMS.items()))


@lru_cache(maxsize=1)
def _follow(architectures: tuple[tuple[str, type[SAE]], ...], terms: tuple[tuple[str, type[Term]], ...]) -> None:
    Variant.model_rebuild(force=True)
    RunConfig.model_rebuild(force=True)


def recorded(extraction: dict[str, Yaml]) -> dict[str, Yaml]:
    """`RunConfig.extraction()` with every path that starts at the root or at a named home as `<name>#<hash>`.

    Stores are shared, and such paths hold user names. The hash is of the path as it was given, so that another path
    still counts as another config. Done to what is recorded already, it changes nothing. Settings that older plans do
    not know are left out where they are unset.
    """
    made = _with_impersonal_paths(extraction)
    if isinstance(corpus := made.get("corpus"), dict) and isinstance(sources := corpus.get("sources"), list):
        made["corpus"] = _set_only(corpus | {"sources": [_set_only(source) for source in sources]})
    if "store" in made:
        made["store"] = _set_only(made["store"])
    return made


def _set_only(settings: Yaml) -> Yaml:
    """The settings of a corpus, a source or the store without those of NOT_RECORDED_WHERE_UNSET that are unset."""
    if not isinstance(settings, dict):
        return settings
    unset = NOT_RECORDED_WHERE_UNSET
    return {key: value for key, value in settings.items() if key not in unset or value != unset[key]}


def _with_impersonal_paths(extraction: dict[str, Yaml]) -> dict[str, Yaml]:
    made = {**extraction, "model": _impersonal(extraction.get("model"))}
    if isinstance(corpus := extraction.get("corpus"), dict) and isinstance(sources := corpus.get("sources"), list):
        made["corpus"] = corpus | {"sources": [_impersonal(source) for source in sources]}
    return made


def differences(plan_config: dict[str, Yaml], extraction: dict[str, Yaml]) -> list[str]:
    """What differs between the config of a plan and that of a run, a line each.

    A setting that did not exist when the plan was made had its default value; `auto` is the device that it is here.
    """
    filled = {name: _filled(section, _SECTIONS.get(name)) for name, section in plan_config.items()}
    if isinstance(corpus := filled.get("corpus"), dict) and isinstance(sources := corpus.get("sources"), list):
        kinds = [SOURCES.get(str(source.get("kind"))) if isinstance(source, dict) else None for source in sources]
        filled["corpus"] = corpus | {"sources": [*map(_filled, sources, kinds)]}
    then, now = (_on_a_device(_with_impersonal_paths(config)) for config in (filled, extraction))
    return changed_keys(then, now)


def _on_a_device(extraction: dict[str, Yaml]) -> dict[str, Yaml]:
    """The config with the device that `model.device: auto` is on this machine."""
    model = extraction.get("model")
    if not isinstance(model, dict) or model.get("device") != "auto":
        return extraction
    return extraction | {"model": model | {"device": str(choose_device("auto", "model.device"))}}


_SECTIONS: dict[str, type[Settings]] = {"model": ModelSettings, "corpus": CorpusSettings, "store": StoreSettings}
_NOT_RECORDED = ("path", "io")
"""Settings of a store that say where it lies and how it is read, and nothing of its content."""


def _filled(section: Yaml, settings: type[Settings] | None) -> Yaml:
    """The settings of a plan, with the defaults of those that it does not hold."""
    if settings is None or not isinstance(section, dict):
        return section
    fields = {name: field for name, field in settings.model_fields.items() if name not in _NOT_RECORDED}
    return {name: field.default for name, field in fields.items() if not field.is_required()} | section


def _impersonal(settings: Yaml) -> Yaml:
    """The settings of a model or a source with their paths as a plan records them."""
    if not isinstance(settings, dict):
        return settings
    made = dict(settings)
    if isinstance(path := settings.get("path"), str):
        made["path"] = impersonal(path)
    if isinstance(paths := settings.get("paths"), list):
        made["paths"] = [impersonal(path) if isinstance(path, str) else path for path in paths]
    return made
