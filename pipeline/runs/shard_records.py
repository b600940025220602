"""What the first of several ranks writes of a checkpoint that they hold together."""

from typing import ClassVar

from strata_sae.pipeline.runs.records import Count, Group, Record, Width


class ShardPart(Group):
    """A file of a checkpoint that several ranks wrote: the rows of some latents, and what all ranks hold alike."""

    first_latent: Count
    n_latents: Width
    sha256: str


class Shards(Record):
    """shards.json of a checkpoint that several ranks wrote; state.json hashes it."""

    kind: ClassVar[str] = "shards.json"
    remedy: ClassVar[str] = "an older checkpoint is used"
    shards: list[ShardPart]
    """In the order of their latents."""
