"""The rows of the tasks that probes are tested on: made once, where they are missing."""

import logging

from strata_sae.pipeline.config.judging import WithModelSettings
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.intervention.labelled_rows import Cut, LabelledText, Labeller
from strata_sae.pipeline.intervention.which_model import model_settings, recorded_model
from strata_sae.pipeline.once import make_each
from strata_sae.pipeline.reading.labelled import labelled_root
from strata_sae.pipeline.reading.probing_texts import data_folder, drawn_as, task_texts, text_stores
from strata_sae.pipeline.reading.routes import sites_of_saes
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import ActivationStore

log = logging.getLogger(__name__)


def make_probing_rows(config: TrainConfig, *, show_progress: bool = False) -> None:
    """A labelled store for each task of `evaluation.probing.tasks`; those that are there stay as they are.

    A task that cannot be made is said, and costs the others nothing.
    Raises: ConfigError if the texts or the model are not there, or it is not the model of the run's store.
    """
    settings, sites = config.evaluation.probing, sites_of_saes(config)
    if settings is None or not settings.tasks:
        return
    store = open_store(config).stores[0]
    there = text_stores(config, settings, store)
    missing = [task for task in settings.tasks if task not in there or not set(sites) <= {*there[task].about.sites}]
    if not missing:
        log.info("rows of %d tasks of labelled texts are made already", len(there))
        return
    folder = data_folder()
    labeller = Labeller(labelling_model(config, store), sites, labelled_root(config), show_progress=show_progress)

    def make(task: str, wait: bool) -> bool:
        """Whether it is there now, or cannot be."""
        try:
            found = task_texts(folder, task, settings.texts, config.seed)
        except ConfigError as error:
            log.warning("%s: left out: %s", task, error)
            return True
        store = labeller.store(
            "probing",
            task,
            [LabelledText(text) for text in found.texts],
            {"target": found.target},
            n_train=len(found.texts),  # each seed draws its own split
            cut=Cut(settings.max_tokens, "left"),
            details={
                "classes": [*found.classes],
                "drawn": {**drawn_as(settings, config.seed)},
                "source": f"sae-probes: {task}.csv.zst",
                "source_sha256": found.sha256,
            },
            wait=wait,
        )
        return store is not None

    make_each(missing, make)


def labelling_model(config: TrainConfig, store: ActivationStore) -> ModelSettings:
    """The model that the store was made from, in the precision that it was made in. Raises: ConfigError."""
    recorded_model(store.plan, settings := WithModelSettings())
    recorded = store.plan.provenance.get("model")
    dtype = recorded.get("dtype") if isinstance(recorded, dict) else None
    found = model_settings(config, store.plan, settings)
    return found if dtype is None else ModelSettings.model_validate({**found.model_dump(), "dtype": dtype})
