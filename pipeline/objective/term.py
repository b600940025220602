"""What a loss term is: it reads a step, adds its gradients, written by hand, and returns its loss."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import SAE, Encoding, SAESettings
from strata_sae.pipeline.saes.jump_relu import JumpReLU
from strata_sae.pipeline.schedules import Value
from strata_sae.pipeline.settings import Settings


class TermSettings(Settings):
    """What every term's settings share."""

    term: str
    """Name in TERMS."""
    weight: Value = 1.0
    """Factor of this term in the loss."""


@dataclass
class Step:
    """What a term reads of one batch, and where it adds its gradients."""

    sae: SAE
    target_BM: Tensor
    """What is to be reconstructed: the rows, or for a transcoder its target's."""
    encoding: Encoding
    xhat_BM: Tensor
    dead_E: Tensor | None
    """bool: latents that have not been active for long. None: no latent is dead."""
    fraction_done: float
    """Share of the run done, 0 to 1."""
    monitored: bool = False
    """Whether the step is logged. What is only worth logging is measured then, and changes nothing else."""

    error_gradient_BM: Tensor | None = None
    """dloss/dxhat, summed over terms."""
    values_gradient: Tensor | None = None
    """dloss/dvalues beyond what follows from dloss/dxhat, in the layout of codes.values; ignored where a value is 0."""
    penalty_gradient: Tensor | None = None
    """dloss/d(encoding.penalised), in its layout."""
    direct: list[tuple[str, Tensor, Tensor | None]] = field(default_factory=list)
    """Gradients of parameters: name, gradient, and the rows it covers (None: all)."""
    monitors: dict[str, Tensor | float] = field(default_factory=dict)
    """Numbers worth logging."""

    @property
    def codes(self) -> Codes:
        """The codes of the batch."""
        return self.encoding.codes

    def add_xhat_gradient(self, gradient_BM: Tensor) -> None:
        """Add to dloss/dxhat; the objective carries it to every parameter."""
        so_far = self.error_gradient_BM
        self.error_gradient_BM = gradient_BM if so_far is None else so_far + gradient_BM

    def add_values_gradient(self, gradient: Tensor) -> None:
        """Add to dloss/dvalues; the objective carries it to the encoder."""
        so_far = self.values_gradient
        self.values_gradient = gradient if so_far is None else so_far + gradient

    def add_penalty_gradient(self, gradient: Tensor) -> None:
        """Add to dloss/d(encoding.penalised); the architecture carries it to the encoder."""
        so_far = self.penalty_gradient
        self.penalty_gradient = gradient if so_far is None else so_far + gradient

    def add_gradient(self, name: str, gradient: Tensor, rows: Tensor | None = None) -> None:
        """Add to a parameter's gradient, on some (distinct) rows or on all.

        What a gradient of an encoder bias means for b_dec is added by the objective.
        """
        self.direct.append((name, gradient, rows))


class Term:
    """One summand of the loss."""

    Settings: type[TermSettings]
    reconstructs: ClassVar[bool] = False
    """Whether it pulls xhat towards the target; an objective has exactly one such term."""
    sums_over_latents: ClassVar[bool] = False
    """Whether its loss is a sum over latents, to which ranks that hold some latents each add their part."""

    def __init__(self, settings: TermSettings):
        self.settings = settings

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Raises: ValueError if the term does not fit the architecture."""

    def add(self, step: Step) -> Tensor:
        """Add this term's gradients to the step. Returns: its weighted loss, 0-dim."""
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """What the term keeps between steps, for checkpoints."""
        return {}

    def for_readers(self) -> dict[str, Tensor]:
        """What the file of the trained SAE holds of the term, by key: beside the parameters, and in no unit of rows."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved state."""


def needs_learnt_l0(settings: TermSettings, sae_settings: SAESettings) -> None:
    """Raises: ValueError where k fixes how many latents are active: a sparsity penalty would only shrink codes."""
    if not ARCHITECTURES[sae_settings.architecture].learns_l0:
        fitting = ", ".join(name for name, sae in ARCHITECTURES.items() if sae.learns_l0)
        raise ValueError(
            f"term {settings.term!r} fits architectures that learn how many latents are active ({fitting}), got "
            f"{sae_settings.architecture!r}, whose k already fixes it; remove the term or change the architecture"
        )


def needs_codes_from_zero(settings: TermSettings, sae_settings: SAESettings) -> None:
    """Raises: ValueError where l0 is not learnt, or where codes jump.

    A threshold's gradient would need the penalty's derivative at 0, which is infinite below p = 1.
    """
    needs_learnt_l0(settings, sae_settings)
    if isinstance(sae_settings, JumpReLU.Settings):
        raise ValueError(
            f"term {settings.term!r} fits architectures whose codes rise from 0 (relu, gated), got "
            f"{sae_settings.architecture!r}; use the term 'l0' or 'l1' there"
        )


def needs_runners_up(settings: TermSettings, sae_settings: SAESettings) -> None:
    """Raises: ValueError where only active latents have positive pre-activations: the term would do nothing."""
    if not ARCHITECTURES[sae_settings.architecture].has_runners_up:
        fitting = ", ".join(name for name, sae in ARCHITECTURES.items() if sae.has_runners_up)
        raise ValueError(
            f"term {settings.term!r} fits architectures that select among positive pre-activations ({fitting}), got "
            f"{sae_settings.architecture!r}, where the term would do nothing; remove it"
        )
