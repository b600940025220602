"""What the formats have in common: an SAE that another library wrote, and one of ours on its way to another library."""

from dataclasses import dataclass, field

from pydantic import JsonValue

from strata_sae.pipeline.saes.base import SAE


@dataclass(frozen=True)
class Source:
    """Where a foreign SAE came from, and what its files say of it."""

    format: str
    """Name in FORMATS."""
    path: str
    """The folder, file or hub address, as it was given."""
    sha256: dict[str, str]
    """Every file that was read, by name -> its sha256."""
    site: str | None = None
    """Whose rows it reads (`blocks.8.hook_resid_post`); None where the files do not say."""
    writes: str | None = None
    """Whose rows a transcoder writes; None: those of `site`."""
    model: str | None = None
    """Name of the language model, as the files spell it."""
    facts: dict[str, JsonValue] = field(default_factory=dict)
    """What else the files say, by their own names: plain data, never used to decide anything."""


@dataclass(frozen=True)
class Foreign:
    """An SAE read from another library's files, as one of our architectures. Its rows are the model's own, unscaled."""

    sae: SAE
    """float32, on the processor."""
    source: Source


@dataclass(frozen=True)
class Handed:
    """A trained SAE, and what other libraries write beside the weights."""

    name: str
    """`<variant>@<site>`."""
    sae: SAE
    """In the units of the stored rows, on the processor."""
    site: str
    """Whose rows it reads."""
    writes: str
    """Whose rows it writes; `site` but for a transcoder."""
    model: str | None
    """Name or path of the language model; None: nobody said (a toy)."""
    context_tokens: int | None
    """Longest sequence that the model was given."""
    prepends_bos: bool
    dataset: str | None
    """Where the text came from, in a few words."""
    provenance: dict[str, JsonValue]
    """Goes into the metadata under `strata`: store id, plan id, config, scores."""


class DoesNotFit(Exception):
    """An SAE cannot be said in a format. The message says why, and where it can be said."""


def layer_of(site: str) -> int | None:
    """The number in `blocks.<n>.…`; None for a module's path."""
    head, _, rest = site.partition(".")
    number = rest.partition(".")[0]
    return int(number) if head == "blocks" and number.isdecimal() else None
