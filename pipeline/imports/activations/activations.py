"""What every format is read into: rows by site, the token map as far as it is known, and what the files say beside."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from strata_sae.pipeline.errors import ConfigError, shown
from strata_sae.pipeline.imports.activations.source_folder import SourceFolder
from strata_sae.stores import Rows
from strata_sae.stores.files.canonical import Json

ENCODINGS = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
"""How rows lie in the files -> numpy's name; bfloat16 is read as its bits."""
OUR_SITE = re.compile(r"blocks\.[0-9]{1,6}\.[A-Za-z0-9_.]+")
"""A site as TransformerLens, SAELens and this project spell it."""
_ALLOWED = re.compile(r"[^A-Za-z0-9_.-]+")


class Theirs(NamedTuple):
    """A site as the files have it."""

    name: str
    """In our spelling as far as that is known; empty: the files do not say."""
    rows_NM: Rows
    """[N, M] in the encoding of the files."""


@dataclass(frozen=True)
class Activations:
    """Cached activations of another program. Nothing of the rows has been read."""

    format: str
    """Name in ACTIVATION_FORMATS."""
    folder: SourceFolder
    sites: dict[str, Theirs]
    """By the name that the files give; all of equal N."""
    encoding: str
    """One of ENCODINGS."""
    tokens: Mapping[str, Rows]
    """Fields of a store's token map [N] that the files know."""
    model: str | None = None
    """Name of the model, as the files spell it."""
    dataset: str | None = None
    """Name of the text or the images, as the files spell it."""
    left_out: Sequence[str] = ()
    """Names of files that a store has no place for."""
    facts: dict[str, Json] = field(default_factory=dict)
    """What else the files say, by their own names: plain data, never used to decide anything."""


def encoding_of(dtype: str, where: str) -> str:
    """The encoding of a type by numpy's, torch's or safetensors' name. Raises: ConfigError if there is none for it."""
    known = {
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "<f4": "float32",
        "<f2": "float16",
        "<u2": "bfloat16",
    }
    found = known.get(dtype, dtype.removeprefix("torch."))
    if found not in ENCODINGS:
        raise ConfigError(f"{where}: its rows are {shown(dtype)}; allowed: float32, float16, bfloat16")
    return found


def same(folder: SourceFolder, found: Mapping[str, object], what: str) -> None:
    """Whether all shards agree. Raises: ConfigError naming two that do not.

    Args:
        folder: that all of them lie in.
        found: where -> what it has there.
        what: what that is, for the error.

    """
    first, *others = found.items()
    for where, value in others:
        if value != first[1]:
            other, one = shown(str(value)), shown(str(first[1]))
            raise ConfigError(f"{folder.path}: {where}: {what} is {other}, but {one} in {first[0]}")


def allowed_name(name: str) -> str:
    """A site's name with what no store allows in it replaced by a line."""
    return _ALLOWED.sub("_", name).strip("._")[:128]
