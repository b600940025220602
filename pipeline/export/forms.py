"""An SAE in the words of other libraries, as folders beside its own files: made before a push, read after a pull."""

from pathlib import Path

from strata_sae.pipeline.errors import CheckpointError, ConfigError, first_line
from strata_sae.pipeline.export.exporting import export_sae
from strata_sae.pipeline.export.shared import FORMS, OF_FORMS
from strata_sae.pipeline.formats import FORMATS
from strata_sae.pipeline.runs.trained import TrainedSAE


def write_forms(sae: TrainedSAE, into: Path, left_out: list[str]) -> list[str]:
    """Export an SAE to every format that it fits. Returns: the files, relative to `into`.

    left_out: takes a line for each format that it does not fit, or whose metadata cannot be had.
    """
    for format in FORMS:
        if format in FORMATS and FORMATS[format].write is not None:
            try:
                export_sae(sae, format, into / format)
            except (ConfigError, CheckpointError) as error:
                left_out.append(
                    f"{sae.name}: not as {format}: {first_line(error).removeprefix(f'--format {format}: ')}"
                )
    return [name for name in OF_FORMS if (into / name).is_file()]


def check_forms(sae: TrainedSAE, folder: Path) -> None:
    """Read every export beside an SAE: each is what its format says, and of an SAE of this width.

    Raises: CheckpointError if one is not.
    """
    for format in FORMS:
        path = folder / format
        if not path.is_dir():
            continue
        read = FORMATS[format].read if format in FORMATS else None
        if read is None:
            raise CheckpointError(f"{path}: this version cannot read {format}, so it cannot be checked")
        found = read(path).sae
        if (found.d_sae, found.d_in, found.d_out) != (sae.sae.d_sae, sae.sae.d_in, sae.sae.d_out):
            raise CheckpointError(f"{path}: is an SAE of another width than {sae.name}")
