"""What a notebook calls: a config is a file or settings, and each function returns what it made."""

from collections.abc import Sequence
from pathlib import Path

from strata_sae.pipeline.available import choose_device
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config import load as load_config
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.paths import as_path
from strata_sae.pipeline.runs import trained as trained_saes
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.trained import TrainedSAE

FORMATS = ("strata",)
"""Formats of trained SAEs that `load` reads."""


def load(path: Path | str, format: str = "strata", *, device: str = "cpu") -> TrainedSAE:
    """A trained SAE, in the units of the stored rows.

    Args:
        path: the folder of a variant, `runs/<run>/variants/<variant>@<site>`, or the same without `variants/`; or that
            of weights that `training.keep` kept, `<variant's folder>/checkpoints/kept_<step>`.
        format: who wrote it; `strata` is the one that is read so far.
        device: where its weights are to lie: `cpu`, `cuda`, `cuda:1` or `auto`.
    Raises: ConfigError if there is no such SAE or device; CheckpointError if its training diverged, or if its files are
        damaged or foreign to each other.

    """
    if format not in FORMATS:
        raise ConfigError(f"format: {format!r} is unknown; allowed: {', '.join(FORMATS)}")
    given = as_path(str(path), "path")
    if given.parent.name == "checkpoints" and (given / "training.json").is_file():
        return trained_saes.load(VariantFolder(given.parents[1]), choose_device(device, "device"), VariantFolder(given))
    for folder in (VariantFolder(given), VariantFolder(given.parent / "variants" / given.name)):
        if folder.training.is_file():
            trained = trained_saes.load(folder, choose_device(device, "device"))
            if trained.training.status == "diverged":
                raise CheckpointError(
                    f"{folder.path}: training diverged at step {trained.training.diverged_at_step} "
                    f"({trained.training.reason}), so this is no trained SAE; change the variant and train it again"
                )
            return trained
    raise ConfigError(
        f"{given}: no trained SAE; give the folder of a variant whose training is done, which holds training.json"
    )


def train(
    config: RunConfig | Path | str, *, only: Sequence[str] = (), show_progress: bool = True
) -> dict[str, TrainedSAE]:
    """Train every variant of a config at every site; what is trained already is read.

    Args:
        config: a YAML file, or its settings.
        only: names or patterns (`topk_*`) of the variants to train; none: all.
        show_progress: whether bars are drawn.
    Returns: every SAE of the run that is trained to its end, by `<variant>@<site>`.
    Raises: ConfigError, StoreError, CheckpointError.

    """
    from strata_sae.pipeline.trainer.train import train

    settings = _settings(config)
    train(settings, only=only, show_progress=show_progress)
    saes = {folder.name: trained_saes.load(folder) for folder in RunFolder(settings.run_path()).trained()}
    return {name: sae for name, sae in saes.items() if sae.training.status == "finished"}


def evaluate(config: RunConfig | Path | str, *, show_progress: bool = True) -> dict[str, dict[str, float | None]]:
    """Score every trained SAE of a config's run on the held-out rows; what is scored already is read.

    Returns: `<variant>@<site>` -> metric -> value (None where it is not defined). The SAE's metrics.json holds each
        definition, how many rows and documents were scored, and which rows the filters left out.
    Raises: ConfigError, StoreError, CheckpointError.
    """
    from strata_sae.pipeline.evaluation.evaluate import evaluate, scores_of

    settings = _settings(config)
    evaluate(settings, show_progress=show_progress)
    return scores_of(RunFolder(settings.run_path()))


def _settings(config: RunConfig | Path | str) -> TrainConfig:
    if isinstance(config, RunConfig):
        return TrainConfig.of(config, config.name)
    path = as_path(str(config), "config")
    return TrainConfig.of(load_config(path), path)
