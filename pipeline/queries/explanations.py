"""What is known in words of an SAE's latents: by `strata interpret`, and by files that others published."""

from typing import NamedTuple

from strata_sae.pipeline.queries.opened import CodedSAE


class Explained(NamedTuple):
    """A latent in words."""

    text: str
    by: str
    """The model that wrote them; of published ones also that they are."""
    is_published: bool
    balanced_accuracy: float | None
    """Of detection on unseen documents; None: not scored."""
    lift: float | None
    """Of it over the token label's on the same windows."""
    rating: int | None


class Explanations:
    """All that is known of one SAE. Those made here come before published ones."""

    def __init__(self, found: dict[int, Explained]) -> None:
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    def of(self, latent: int) -> Explained | None:
        """None: nothing is known of it."""
        return self._found.get(latent)


def explanations_of(sae: CodedSAE) -> Explanations:
    """What the files beside an SAE say. Raises: CheckpointError if they are of other weights or codes, or damaged."""
    return Explanations({})
