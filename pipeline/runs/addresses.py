"""Where a trained SAE lies, as people name it: `runs/demo/topk@blocks.8.hook_resid_post`."""

from pathlib import Path

import torch

from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.runs import trained as trained_saes
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.trained import TrainedSAE


def trained_at(given: Path, device: torch.device | None = None) -> TrainedSAE:
    """As `trained_in`, also of `<run>/<variant>` if that lies at one site only.

    Raises: ConfigError if no SAE of ours lies there, or several do.
    """
    trained = trained_in(given, device)
    if trained is None and (folder := named_without_site(given)) is not None:
        trained = trained_in(folder.path, device)
    if trained is None:
        raise ConfigError(
            f"{given}: no trained SAE; give the folder of a variant whose training is done, which holds training.json"
        )
    return trained


def trained_in(given: Path, device: torch.device | None = None) -> TrainedSAE | None:
    """The SAE at `<run>/variants/<variant>@<site>`, or the same without `variants/`; or weights that training kept.

    The latter lie in `<variant's folder>/checkpoints/kept_<step>`. device: None is the processor.
    Returns: None of any other folder. Raises: CheckpointError if its training diverged, or as `trained.load` does.
    """
    if given.parent.name == "checkpoints" and (given / "training.json").is_file():
        return trained_saes.load(VariantFolder(given.parents[1]), device, VariantFolder(given))
    for folder in (VariantFolder(given), VariantFolder(given.parent / "variants" / given.name)):
        if folder.training.is_file():
            trained = trained_saes.load(folder, device)
            if trained.training.status == "diverged":
                raise CheckpointError(
                    f"{folder.path}: training diverged at step {trained.training.diverged_at_step} "
                    f"({trained.training.reason}), so this is no trained SAE; change the variant and train it again"
                )
            return trained
    return None


def named_without_site(given: Path) -> VariantFolder | None:
    """The folder of the SAE at `<run>/<variant>`, or None. Raises: ConfigError for one at several sites."""
    there = sorted((given.parent / "variants").glob("*@*"))
    found = [VariantFolder(folder) for folder in there if folder.name.partition("@")[0] == given.name]
    if len(found) > 1:
        names = ", ".join(folder.name for folder in found)
        raise ConfigError(f"RUN/VARIANT: {given} is at several sites; name one: {names}")
    return found[0] if found else None


def run_of(folder: VariantFolder) -> RunFolder:
    """The run that an SAE's folder, or that of a trial, lies in."""
    return RunFolder(folder.path.absolute().parents[1 if folder.number is None else 3])
