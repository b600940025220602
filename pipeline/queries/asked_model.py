"""What a language model with the SAEs of a run beside it can be asked; commands hand one to the app and to analyses."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.queries.populations import Population
from strata_sae.pipeline.runs.effect_records import AblatedLatent

LARGEST_AMOUNT = 1e6
"""Of an edit, of either sign: far beyond any code, and rows so long stay far below what float32 ends at, 3e38."""
EditKind = Literal["ablate", "clamp", "steer"]
MOST_TOKENS = 1024
"""Of a prompt."""
MOST_NEW_TOKENS = 512
"""Of a continuation."""


class Edit(NamedTuple):
    """A change of one latent of one SAE at every token that is no special one; what the SAE misses is kept."""

    sae: str
    """`<variant>@<site>`."""
    latent: int
    kind: EditKind
    """`ablate`: set to 0. `clamp`: set to `amount`. `steer`: the row becomes x + amount d, d its decoder row."""
    amount: float = 0.0
    """In units of the latent's codes: its largest value in the store is a strong one."""


class Active(NamedTuple):
    """The active latents of an SAE on each of S tokens, the most active first."""

    offset: np.ndarray
    """int64 [S + 1]."""
    latents: np.ndarray
    """int64."""
    values: np.ndarray
    """float32."""

    def values_S(self, latent: int) -> np.ndarray:
        """A latent's value on each token, float32 [S]; 0 where it is not active."""
        values_S = np.zeros(len(self.offset) - 1, np.float32)
        places = np.flatnonzero(self.latents == latent)
        values_S[np.searchsorted(self.offset, places, "right") - 1] = self.values[places]
        return values_S


class NextTokens(NamedTuple):
    """The likeliest next tokens after each of S tokens, the likeliest first."""

    token_ids: np.ndarray
    """int64 [S, n]."""
    texts: list[list[str]]
    probabilities: np.ndarray
    """float32 [S, n]."""


class Seen(NamedTuple):
    """What one forward pass gave."""

    active: dict[str, Active]
    """By SAE. Of an edited pass: of those at or after the edited site; others are as they were."""
    following: NextTokens


class Prompted(NamedTuple):
    """A text in the model."""

    token_ids: list[int]
    texts: list[str]
    """For people."""
    is_special: list[bool]
    clean: Seen
    edited: Seen | None
    kl_S: np.ndarray | None
    """KL of the edited from the clean next-token distribution (nat), float32 [S]."""


class MeasuredEffects(NamedTuple):
    """What ablated latents do to the latents of another SAE, or to the probabilities of words as the next one.

    An effect is clean less ablated, summed over all rows, for each row on which the ablated latent is active: above 0
    the latent excites what is watched. [P] each, the effects of one latent after those of another, of each those of
    the largest size.
    """

    latents: list[AblatedLatent]
    """The one with the most activation first."""
    ablator: np.ndarray
    """int64: the latent."""
    reader: np.ndarray
    """int64: the other SAE's latent, or the token."""
    effect: np.ndarray
    """float64."""
    standard_error: np.ndarray
    """float64, over the sequences in which the latent is active; NaN: it is in one only."""
    log_probability: np.ndarray
    """float64: the same of log-probabilities, of words; NaN of latents."""
    n_rows: int
    """In the sequences."""
    n_sequences: int
    n_dense: int
    """Latents that were left out since they are active on too many rows."""


class AskedModel(Protocol):
    """The model whose activations a run's store holds. It is loaded at the first question."""

    def load(self) -> None:
        """Load it now. Raises: ConfigError where it is not there, or is another one than the store was made from."""
        ...

    def prompt(self, text: str, edits: Sequence[Edit] = (), n_following: int = 10) -> Prompted:
        """A text's tokens with every SAE's codes; with edits also what they change.

        Raises: ConfigError for an empty text, one of more than MOST_TOKENS, and an edit that cannot be made.
        """
        ...

    def continuations(self, text: str, ways: Sequence[Sequence[Edit]], n_tokens: int) -> list[str]:
        """How the model goes on after a text, greedily, with each of several lists of edits. Raises: as `prompt`."""
        ...

    def effects(
        self, ablator: CodedSAE, reader: CodedSAE | None, population: Population, *, n: int, latent: int | None = None
    ) -> MeasuredEffects:
        """Effects of latents, each set to 0 by itself on all rows of a population, measured on held-out sequences.

        reader: whose latents are watched; None: the model's predictions.
        n: latents that are ablated, those with the most activation first; latent: this one alone.
        What is measured is kept beside the ablated SAE. Raises: ConfigError for an SAE of which no latent can be
            ablated in a forward pass, or a reader that reads nothing behind it; StoreError, CheckpointError.
        """
        ...
