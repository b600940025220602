"""Formats of other libraries' SAEs, one file each, with both directions: into our architectures, and out of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from strata_sae.pipeline.formats import (
    dictionary_learning_reading,
    dictionary_learning_writing,
    gemma_scope,
    llama_scope,
    saelens_reading,
    saelens_writing,
    sparsify,
)
from strata_sae.pipeline.formats.foreign import Foreign, Handed

Reading = Callable[[Path], Foreign]
"""A folder or file of a format -> the SAE. Raises: CheckpointError saying where, what, what is allowed, what to do."""
Writing = Callable[[Handed, Path], None]
"""Put the files of an SAE into an empty folder. Raises: DoesNotFit, before anything is written."""


@dataclass(frozen=True)
class Format:
    """One format: what it can do is a function; what it cannot is None."""

    is_one: Callable[[Path], bool]
    """Whether a folder or file is certainly of this format, by its files' names and keys. Never raises."""
    read: Reading | None
    write: Writing | None
    files: tuple[str, ...] = ()
    """The files that it consists of, as paths in its folder. The hub is asked for these alone."""


FORMATS: dict[str, Format] = {
    "saelens": Format(
        saelens_reading.is_one, saelens_reading.read, saelens_writing.write, ("cfg.json", "sae_weights.safetensors")
    ),
    "dictionary_learning": Format(
        dictionary_learning_reading.is_one,
        dictionary_learning_reading.read,
        dictionary_learning_writing.write,
        ("ae.pt", "config.json"),
    ),
    "gemma_scope": Format(gemma_scope.is_one, gemma_scope.read, None, ("params.npz",)),
    "llama_scope": Format(
        llama_scope.is_one, llama_scope.read, None, ("hyperparams.json", "checkpoints/final.safetensors")
    ),
    "sparsify": Format(sparsify.is_one, sparsify.read, sparsify.write, ("cfg.json", "sae.safetensors")),
}
"""By the name that `--format` and `from.format` take."""
