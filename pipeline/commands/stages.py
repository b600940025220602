"""The stages in order, each a function of one config that reads files and writes files."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from strata_sae.pipeline.errors import ConfigError

if TYPE_CHECKING:
    from strata_sae.pipeline.config.run import ExtractConfig, RunConfig, ToyConfig, TrainConfig
    from strata_sae.pipeline.tracking.follow import Follower

# Imports that take seconds (torch, zarr, transformers) stand inside the functions that need them, so --help is quick.

log = logging.getLogger(__name__)


def run_stages(config: "TrainConfig", to_extract: "ExtractConfig | None", toy: "ToyConfig | None" = None) -> None:
    """The pipeline. A part that is finished is recognised and skipped.

    to_extract, toy: the same config, or None where it does not say what to make a store of, but names one.
    """
    from strata_sae.pipeline.commands.judging import judge_once
    from strata_sae.pipeline.engines import share_of_environment

    config.run_path()  # a name that cannot be a folder is refused now, before the store is made
    refuse_what_is_not_installed(config)
    if to_extract is not None:
        extract_activations(to_extract)
    if toy is not None:
        make_toy(toy)
    with trackers(config):  # begun after extraction, which may start processes: a thread is no part of them
        unmatched = train_saes(config)
        judge_once(config.run_path(), share_of_environment(), partial(_judge_and_report, config))
    refuse_unmatched(unmatched)


def _judge_and_report(config: "TrainConfig") -> None:
    judge_saes(config)
    write_report(config)


def trackers(config: "RunConfig") -> "AbstractContextManager[Follower | None]":
    """What holds commands that write the run's folder: the config's trackers follow it until the block ends."""
    if not config.tracking.to:
        return nullcontext()
    from strata_sae.pipeline.runs.folders import RunFolder
    from strata_sae.pipeline.tracking.follow import following

    return following(RunFolder(config.run_path()), config.tracking)


def extract_activations(config: "ExtractConfig", workers: int | None = None) -> None:
    """Stage 1: corpus and language model -> activation store. The only stage that loads a language model."""
    if "://" in (config.store.path or ""):
        log.info("%s: a store that is read where it lies; nothing to extract", config.store.path)
        return
    from strata_sae.pipeline.commands.engines import engine_of
    from strata_sae.pipeline.extractor.extract import extract
    from strata_sae.pipeline.reading.outlier_norms import stored_outlier_norms
    from strata_sae.stores.files.filesystem import naming

    with naming(config.store_path()):
        at = config.store_path().with_name(f".{config.store_path().name}.engine")
        engine = engine_of(config.engine, at=at, device=config.model.device, workers=workers)
        extract(config, engine, show_progress=shows_progress())
    if line := stored_outlier_norms(config):
        log.warning("%s", line)


def make_toy(config: "ToyConfig") -> None:
    """In the place of stage 1: made-up rows -> activation store."""
    from strata_sae.pipeline.toy.make import make_toy

    make_toy(config)


def train_saes(
    config: "TrainConfig", stage: Path | None = None, only: Sequence[str] = (), extend: int | None = None
) -> list[str]:
    """Stage 2: store -> one SAE per variant and site, or extensions of them by so many updates; published ones first.

    Returns: a line for each SAE whose L0 could not be matched; all others are trained.
    """
    if config.imported_variants():
        from strata_sae.pipeline.imports.saes import import_saes

        import_saes(config, only)
    from strata_sae.pipeline.commands.engines import engine_of
    from strata_sae.pipeline.runs.folders import RunFolder

    at = RunFolder(config.run_path()).claims / "engine"
    engine = engine_of(config.engine, at=at, device=config.training.device)
    if extend is None:
        from strata_sae.pipeline.commands.matching import train_matched

        return train_matched(config, stage, only, engine=engine, show_progress=shows_progress())
    from strata_sae.pipeline.trainer.train import train

    train(config, stage=stage, only=only, extend=extend, engine=engine, show_progress=shows_progress())
    return []


def refuse_unmatched(unmatched: Sequence[str]) -> None:
    """Raises: ConfigError with the lines, where an L0 could not be matched."""
    if unmatched:
        raise ConfigError("\n".join(unmatched))


def judge_saes(config: "TrainConfig", *, with_model: bool = False) -> None:
    """Stage 3: everything that the config asks for, and with the model where it says so or `with_model` does.

    What needs no model comes first, and is there whatever becomes of the rest.
    """
    refuse_what_is_not_installed(config)
    evaluate_saes(config)
    if with_model or config.evaluation.with_model is not None:
        label_texts(config)
    probe_saes(config)
    if with_model:
        measure_with_model(config)
    elif config.evaluation.with_model is not None:
        measure_if_the_model_is_there(config)


def refuse_what_is_not_installed(config: "TrainConfig") -> None:
    """Raises: ConfigError for a tracker, or a part of the evaluation, whose packages are in an extra not there."""
    if config.tracking.to:
        from strata_sae.pipeline.tracking.follow import check_installed

        check_installed(config.tracking)
    probes = {"probing": config.evaluation.probing, "absorption": config.evaluation.absorption}
    for key, asked in probes.items():
        if asked is not None and find_spec("sklearn") is None:
            raise ConfigError(
                f"evaluation.{key}: needs scikit-learn: pip install 'strata-sae[probing]'; or leave it out"
            )


def evaluate_saes(config: "TrainConfig") -> None:
    """Of stage 3: held-out rows of the store -> scores of every SAE, and what they differ by."""
    from strata_sae.pipeline.evaluation.evaluate import evaluate

    evaluate(config, show_progress=shows_progress())


def label_texts(config: "TrainConfig") -> None:
    """Of stage 3: rows of labelled texts that are missing, by the model; without it a line says so."""
    if config.evaluation.probing is None and config.evaluation.absorption is None:
        return
    from strata_sae.pipeline.errors import ConfigError
    from strata_sae.pipeline.intervention.absorption_rows import make_absorption_rows
    from strata_sae.pipeline.intervention.probing_rows import make_probing_rows

    for make in (make_probing_rows, make_absorption_rows):
        try:
            make(config, show_progress=shows_progress())
        except ConfigError as error:
            log.warning("no rows of labelled texts are made: %s", error)


def probe_saes(config: "TrainConfig") -> None:
    """Of stage 3: probes of labelled rows, and absorption, where the config asks for them."""
    if config.evaluation.probing is not None:
        from strata_sae.pipeline.evaluation.probing.probing import probe_saes

        probe_saes(config, show_progress=shows_progress())
    if config.evaluation.absorption is not None:
        from strata_sae.pipeline.evaluation.absorption.absorption import measure_absorption

        measure_absorption(config, show_progress=shows_progress())


def measure_with_model(config: "TrainConfig") -> None:
    """Of the scores, those that need the language model: its losses with reconstructions in the place of rows.

    Raises: ConfigError where the model is not there; the scores of the store's rows do not depend on it.
    """
    from strata_sae.pipeline.intervention.intervene import intervene

    intervene(config, show_progress=shows_progress())


def measure_if_the_model_is_there(config: "TrainConfig") -> None:
    """Measure with the model, or say in a line why that is not possible: what follows goes on without."""
    from strata_sae.pipeline.errors import ConfigError

    try:
        measure_with_model(config)
    except ConfigError as error:
        log.warning("nothing is measured with the model: %s", error)


def write_report(config: "RunConfig") -> None:
    """Stage 4: run folder -> one HTML page and one CSV table."""
    from strata_sae.pipeline.report.page import write_report

    log.info("report: %s", write_report(config.run_path(), config.report.title or config.name))


def write_report_of(run: Path) -> None:
    """The same of a run that is known by its folder alone, such as one that was pulled."""
    from strata_sae.pipeline.report.page import write_report

    log.info("report: %s", write_report(run))


def shows_progress() -> bool:
    """Whether progress bars are drawn: unless --quiet or --log-level asks for less than info."""
    return logging.getLogger("strata_sae").isEnabledFor(logging.INFO)
