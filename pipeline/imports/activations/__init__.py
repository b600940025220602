"""Activations that other programs cached, one file a format: `read_activations` says what a folder holds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from strata_sae.pipeline.errors import ConfigError, nearest
from strata_sae.pipeline.imports.activations import (
    activault,
    dictionary_learning,
    npy_folder,
    saelens,
    saev,
    safetensors_folder,
)
from strata_sae.pipeline.imports.activations.activations import Activations
from strata_sae.pipeline.imports.activations.source_folder import SourceFolder


@dataclass(frozen=True)
class ActivationFormat:
    """One format of cached activations."""

    is_one: Callable[[SourceFolder], bool]
    """Whether a folder is certainly of this format, by its files' names and keys. Never raises."""
    read: Callable[[SourceFolder], Activations]
    """What the folder holds; rows are read later, in pieces. Raises: ConfigError in one line."""


ACTIVATION_FORMATS: dict[str, ActivationFormat] = {
    "saelens": ActivationFormat(saelens.is_one, saelens.read),
    "dictionary_learning": ActivationFormat(dictionary_learning.is_one, dictionary_learning.read),
    "activault": ActivationFormat(activault.is_one, activault.read),
    "saev": ActivationFormat(saev.is_one, saev.read),
    "npy": ActivationFormat(npy_folder.is_one, npy_folder.read),
    "safetensors": ActivationFormat(safetensors_folder.is_one, safetensors_folder.read),
}
"""By the name that `store import --format` takes."""


def read_activations(path: Path, format: str | None) -> Activations:
    """What a folder of another program holds.

    Args:
        path: the folder.
        format: a name in ACTIVATION_FORMATS; None: guessed, where the files say it for certain.
    Raises: ConfigError saying where, what is wrong, what is allowed.

    """
    allowed = ", ".join(ACTIVATION_FORMATS)
    if format is not None and format not in ACTIVATION_FORMATS:
        raise ConfigError(f"--format: {format!r} is unknown; allowed: {allowed}{nearest(format, ACTIVATION_FORMATS)}")
    folder = SourceFolder(path)
    fitting = (
        [name for name, known in ACTIVATION_FORMATS.items() if known.is_one(folder)] if format is None else [format]
    )
    if len(fitting) != 1:
        found = f"could be {' or '.join(fitting)}" if fitting else "does not say whose activations it holds"
        raise ConfigError(f"{path}: {found}; say it with --format, one of {allowed}")
    return ACTIVATION_FORMATS[fitting[0]].read(SourceFolder(path))
