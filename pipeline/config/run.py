"""The whole of one run's configuration."""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from strata_sae.pipeline.config.corpus import CorpusSettings, StoreSettings
from strata_sae.pipeline.config.routes import check_sites
from strata_sae.pipeline.config.sweep import Sweep
from strata_sae.pipeline.config.training import EvaluationSettings, ReportSettings, TrainingSettings
from strata_sae.pipeline.config.variants import Variant
from strata_sae.pipeline.model_settings import ModelSettings
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.paths import as_path, data_root
from strata_sae.pipeline.settings import Name, Settings


class RunConfig(Settings):
    """One YAML file: extract once, train many."""

    name: Name
    """Name of the run, and of its store where `store.path` is null."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """Seed of the document order, the batches and the initial weights."""
    model: ModelSettings
    """The language model."""
    corpus: CorpusSettings
    """The text."""
    store: StoreSettings
    """The activation store."""
    training: TrainingSettings
    """The training loop."""
    variants: dict[Name, Variant] = Field(min_length=1)
    """The SAEs to train at every site, by name."""
    sweep: Sweep = Field(default=None, exclude=True)
    """A grid over every variant; `load` writes it out as variants (config/sweep.py), so nothing is left of it."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """Scores."""
    report: ReportSettings = ReportSettings()
    """The page."""

    @model_validator(mode="after")
    def _sites_are_stored(self) -> "RunConfig":
        for site in self.training.sites or []:
            if site not in self.store.sites:
                raise ValueError(f"training.sites: {site!r} is not among store.sites {self.store.sites}")
        return self

    @model_validator(mode="after")
    def _routes_are_stored(self) -> "RunConfig":
        for name, variant in self.variants.items():
            if variant.route is not None:
                check_sites(name, variant.route, self.store.sites)
        return self

    @model_validator(mode="after")
    def _training_fits_every_variant(self) -> "RunConfig":
        for name, variant in self.variants.items():
            try:
                variant.resolved(self.training)
            except ValueError as error:
                raise ValueError(f"training of variant {name!r}: {error}") from None
        return self

    def sites_to_train_on(self) -> list[str]:
        """Those of the SAEs, then what other variants read and write."""
        routes = [variant.route for variant in self.variants.values() if variant.route is not None]
        saes = self.training.sites or self.store.sites
        return list(dict.fromkeys([*saes, *(site for route in routes for site in route.sites)]))

    def store_path(self) -> Path:
        """Folder of this run's activation store. Raises: ConfigError if it lies inside another store."""
        path = data_root() / self.name if self.store.path is None else as_path(self.store.path, "store.path")
        return outside_stores(path, "store.path", may_be_one=True)

    def run_path(self) -> Path:
        """Folder of this run's results. Raises: ConfigError if it lies inside a store."""
        return outside_stores(Path("runs") / self.name, "name")

    def extraction(self) -> dict[str, Any]:
        """The part that decides the store's content: plain data, the same for every run that may share the store."""
        return {
            "seed": self.seed,
            "model": self.model.model_dump(mode="json"),
            "corpus": self.corpus.model_dump(mode="json"),
            "store": self.store.model_dump(mode="json", exclude={"path", "io"}),
        }


def follow_registries() -> None:
    """Make the union of architectures and the terms anew, from what is registered now."""
    Variant.model_rebuild(force=True)
    RunConfig.model_rebuild(force=True)
