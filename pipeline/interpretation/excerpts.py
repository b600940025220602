"""Windows of text on which a latent is active or silent: what one model explains it from, and what another is tested on.

Explanations see documents of even number only, scores those of odd number, as token labels do.
"""

from typing import Literal, NamedTuple

Kind = Literal["top", "quantiles", "zero", "near_miss", "neighbour"]
"""`top`: the largest values. `quantiles`: spread evenly over ten bins of equally many active rows. Silent on all of
their tokens are: `zero`: drawn from all such windows; `near_miss`: drawn from those whose row holds a token of the
latent's token label; `neighbour`: drawn from those on whose row a latent that often fires with it does."""
WINDOW_TOKENS, ROW_AT = 32, 24
"""Length of a window, and the place of its row in it, as delphi has them; at the ends of a document it is elsewhere."""


class Excerpt(NamedTuple):
    """A window of a document, with a latent's values on it. S tokens, WINDOW_TOKENS unless the document is shorter."""

    row: int
    """Of the store: the one that was drawn."""
    document: int
    """Number in the corpus."""
    kind: Kind
    texts: list[str]
    """[S]: of each token, for people: leading space kept; joined they are the text."""
    values: list[float]
    """[S]: the latent's; 0 where it is silent, and on tokens that training's filters leave out."""
    token_ids: list[int]
    """[S]."""

    @property
    def is_active(self) -> bool:
        """Whether the latent fires on some token of it."""
        return any(value > 0 for value in self.values)


class Material(NamedTuple):
    """What a latent is explained from and what its explanation is tested on. One row may stand under two kinds."""

    latent: int
    density: float
    """Share of the population's rows on which the latent fires, 0 to 1, exact."""
    window_density: float
    """Share of the population's rows whose window holds a row on which it fires, 0 to 1, exact: what the share of
    active windows would be, were windows drawn at random."""
    largest: float
    """The latent's largest value on the population."""
    explain: list[Excerpt]
    """Of even documents: N_EXPLAIN of each kind but `neighbour`."""
    active: list[Excerpt]
    """Of odd documents: N_TEST of each kind. Between kinds no two are told apart by their text, so take one of them."""
    silent: list[Excerpt]
    """Of odd documents: N_TEST of each kind. `zero` alone is what a row drawn at random would be."""


N_EXPLAIN: dict[Kind, int] = {"top": 10, "quantiles": 10, "zero": 5, "near_miss": 5}
N_TEST: dict[Kind, int] = {"top": 50, "quantiles": 50, "zero": 50, "near_miss": 25, "neighbour": 25}
"""Windows of each kind (count), of a latent that has as many."""
