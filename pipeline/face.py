"""What a notebook calls: a config is a file or settings, and each function returns what it made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

from strata_sae.pipeline.available import choose_device
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config import load as load_config
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.formats.reading import read_foreign, readable
from strata_sae.pipeline.paths import as_path
from strata_sae.pipeline.runs import trained as trained_saes
from strata_sae.pipeline.runs.addresses import trained_in
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.loaded import ForeignSAE
from strata_sae.pipeline.runs.trained import TrainedSAE

OURS = "strata"
"""The format of our own run folders."""


@overload
def load(path: Path | str, format: Literal["strata"], *, device: str = "cpu") -> TrainedSAE: ...
@overload
def load(path: Path | str, format: str | None = None, *, device: str = "cpu") -> TrainedSAE | ForeignSAE: ...
def load(path: Path | str, format: str | None = None, *, device: str = "cpu") -> TrainedSAE | ForeignSAE:
    """An SAE, in the units of the language model's rows, which are those of stores.

    Args:
        path: the folder of a variant, `runs/<run>/variants/<variant>@<site>`, or the same without `variants/`; or that
            of weights that `training.keep` kept, `<variant's folder>/checkpoints/kept_<step>`; or a folder that another
            library wrote, here or on the hub: `hf://owner/repo[@revision][/folder]`, or `owner/repo/folder`.
        format: who wrote it: `strata`, or a format of docs/interoperability.md; None: as its files say for certain.
        device: where its weights are to lie: `cpu`, `cuda`, `cuda:1` or `auto`.
    Raises: ConfigError if there is no such SAE or device, or no format is certain; CheckpointError if its training
        diverged, or if its files are damaged, foreign to each other, or hold what no SAE here computes.

    """
    where = choose_device(device, "device")
    given = as_path(str(path), "path")
    if format in (None, OURS) and (trained := trained_in(given, where)):
        return trained
    if format == OURS or (format is None and "://" not in str(path) and _is_of_a_run(given)):
        raise ConfigError(
            f"{path}: no trained SAE; give the folder of a variant whose training is done, which holds training.json"
        )
    if format is not None and format not in (known := readable()):
        raise ConfigError(f"format: {format!r} is unknown; allowed: {', '.join((OURS, *known))}")
    found = read_foreign(str(path), format, where)
    return ForeignSAE(found.sae, found.source)


def _is_of_a_run(given: Path) -> bool:
    """Whether a folder is one of our runs' that no SAE has been trained in, or is not there and named like one."""
    return (given / "curves.jsonl").exists() or ("@" in given.name and not given.exists())


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


def export(sae: TrainedSAE | Path | str, format: str, out: Path | str) -> Path:
    """Write a trained SAE as another library reads it, in the units of the stored rows, with where it came from.

    Args:
        sae: what `load` or `train` gave, or the folder of a variant.
        format: `saelens`, `dictionary_learning` or `sparsify`; docs/interoperability.md says what fits where. Or, of
            its codes, `neuronpedia`, `delphi`, `circuit_tracer` or `parquet` (docs/viewers.md).
        out: a folder that does not exist, or is empty. It appears whole, or not at all.
    Returns: `out`.
    Raises: ConfigError for another format or folder, or if the SAE does not fit the format, saying why; CheckpointError
        if a file of its run is not what it should be.

    """
    from strata_sae.pipeline.export.exporting import export, export_sae

    where = as_path(str(out), "out")
    if isinstance(sae, TrainedSAE):
        return export_sae(sae, format, where)
    if isinstance(sae, ForeignSAE):
        raise ConfigError("sae: another library wrote it already; give an SAE of a run, or import it into one")
    return export(as_path(str(sae), "sae"), format, where)


def _settings(config: RunConfig | Path | str) -> TrainConfig:
    if isinstance(config, RunConfig):
        return TrainConfig.of(config, config.name)
    path = as_path(str(config), "config")
    return TrainConfig.of(load_config(path), path)
