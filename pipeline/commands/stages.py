"""The stages in order, each a function of one config that reads files and writes files."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from strata_sae.pipeline.config.run import ExtractConfig, RunConfig, ToyConfig, TrainConfig

# Imports that take seconds (torch, zarr, transformers) stand inside the functions that need them, so --help is quick.

log = logging.getLogger(__name__)


def run_stages(config: "TrainConfig", to_extract: "ExtractConfig | None", toy: "ToyConfig | None" = None) -> None:
    """The pipeline. A part that is finished is recognised and skipped.

    to_extract, toy: the same config, or None where it does not say what to make a store of, but names one.
    """
    config.run_path()  # a name that cannot be a folder is refused now, before the store is made
    if to_extract is not None:
        extract_activations(to_extract)
    if toy is not None:
        make_toy(toy)
    train_saes(config)
    evaluate_saes(config)
    write_report(config)


def extract_activations(config: "ExtractConfig", n_workers: int = 1) -> None:
    """Stage 1: corpus and language model -> activation store. The only stage that loads a language model."""
    if "://" in (config.store.path or ""):
        log.info("%s: a store that is read where it lies; nothing to extract", config.store.path)
        return
    from strata_sae.pipeline.engines.local import Local
    from strata_sae.pipeline.extractor.extract import extract
    from strata_sae.pipeline.reading.outlier_norms import stored_outlier_norms
    from strata_sae.stores.files.filesystem import naming

    with naming(config.store_path()):
        extract(config, Local(n_workers), show_progress=shows_progress())
    if line := stored_outlier_norms(config):
        log.warning("%s", line)


def make_toy(config: "ToyConfig") -> None:
    """In the place of stage 1: made-up rows -> activation store."""
    from strata_sae.pipeline.toy.make import make_toy

    make_toy(config)


def train_saes(
    config: "TrainConfig", stage: Path | None = None, only: Sequence[str] = (), extend: int | None = None
) -> None:
    """Stage 2: store -> one SAE per variant and site, or extensions of them by so many updates."""
    from strata_sae.pipeline.trainer.train import train

    train(config, stage=stage, only=only, extend=extend, show_progress=shows_progress())


def evaluate_saes(config: "TrainConfig") -> None:
    """Stage 3: held-out rows of the store -> scores of every SAE."""
    from strata_sae.pipeline.evaluation.evaluate import evaluate

    evaluate(config, show_progress=shows_progress())


def write_report(config: "RunConfig") -> None:
    """Stage 4: run folder -> one HTML page and one CSV table."""
    from strata_sae.pipeline.report.page import write_report

    log.info("report: %s", write_report(config.run_path(), config.report.title or config.name))


def shows_progress() -> bool:
    """Whether progress bars are drawn: unless --quiet or --log-level asks for less than info."""
    return logging.getLogger("strata_sae").isEnabledFor(logging.INFO)
