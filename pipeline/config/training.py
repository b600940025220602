"""How SAEs are trained, judged and shown."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from pipeline.config.lookup import build
from pipeline.objective import TERMS, check_terms
from pipeline.objective.term import TermSettings
from pipeline.saes import ARCHITECTURES
from pipeline.saes.base import SAESettings
from pipeline.settings import Settings


class FilterSettings(Settings):
    """Rows left out when the store is read; nothing is thrown away at extraction."""

    drop_bos: bool = True
    """Leave out BOS tokens: their norm is often a hundred times a usual one."""
    drop_special: bool = True
    """Leave out the other special tokens (EOS, padding, role markers)."""
    drop_template: bool = False
    """Leave out the tokens a chat template adds around the messages."""
    max_norm_multiple: float | None = Field(default=None, gt=1.0)
    """Leave out rows whose norm exceeds this multiple of the median norm. null: no limit."""


class TrainingSettings(Settings):
    """The one loop that steps every variant."""

    sites: list[str] | None = None
    """Sites to train on; null: those of `store.sites`."""
    batch_size: int = Field(default=2048, gt=0)
    """Rows per step (count)."""
    n_steps: int = Field(gt=0)
    """Updates per variant (count)."""
    window_rows: int = Field(default=2**20, gt=0)
    """Rows mixed together in memory (count); what matters is how many documents it spans."""
    window_bytes: int = Field(default=2 * 2**30, gt=0)
    """Largest size of the two window buffers together; caps `window_rows` (bytes)."""
    filters: FilterSettings = FilterSettings()
    """Rows left out, in training and evaluation alike."""
    learning_rate: float = Field(default=3e-4, gt=0.0)
    """Adam step size. Default: SAEBench."""
    warmup_steps: int = Field(default=1000, ge=0)
    """Steps of linear warm-up, (t + 1) / warmup. Default: SAEBench."""
    decay_start: float = Field(default=0.8, gt=0.0, le=1.0)
    """Progress from which the learning rate falls linearly to 0. Default: SAEBench."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Adam's decay of the mean. Default: Adam's."""
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    """Adam's decay of the square. Default: Adam's."""
    epsilon: float = Field(default=1e-8, gt=0.0)
    """Adam's epsilon. Default: Adam's."""
    clip_norm: float | None = Field(default=1.0, gt=0.0)
    """Largest norm of all gradients together. null: no clipping. Default: dictionary_learning."""
    dead_after_tokens: int = Field(default=10_000_000, gt=0)
    """A latent that has not fired for this many rows is dead. Default: dictionary_learning."""
    threshold_beta: float = Field(default=0.999, ge=0.0, lt=1.0)
    """Decay of the inference threshold's running mean (bias-corrected). Default: dictionary_learning."""
    calibration_rows: int = Field(default=65536, gt=0)
    """Rows used after training to set the threshold that gives the wanted l0 (count)."""
    log_every_steps: int = Field(default=25, gt=0)
    """Steps between lines of curves.jsonl."""
    checkpoint_every_steps: int = Field(default=500, gt=0)
    """Steps between resumable checkpoints."""
    shared_windows: str | None = None
    """A folder in memory (/dev/shm/strata) that trainers on this machine share windows in. null: each has its own."""
    device: str = "auto"
    """`auto` (cuda where there is one), `cpu`, `cuda`."""


def _known_term(value: Any) -> TermSettings:
    return build(value, "term", {name: term.Config for name, term in TERMS.items()})


class Variant(Settings):
    """One SAE idea: an architecture, an objective, and what it changes of `training`."""

    sae: SerializeAsAny[SAESettings]
    """`architecture` and its knobs; the architectures are those of pipeline/saes."""
    objective: dict[str, Annotated[SerializeAsAny[TermSettings], BeforeValidator(_known_term)]] = Field(min_length=1)
    """Loss terms by name; the terms are those of pipeline/objective."""
    learning_rate: float | None = Field(default=None, gt=0.0)
    """This variant's learning rate; null: the training section's."""
    batch_size: int | None = Field(default=None, gt=0)
    """This variant's batch size (rows); null: the training section's."""
    seed: int | None = Field(default=None, ge=0)
    """This variant's seed; null: the config's."""

    @field_validator("sae", mode="before")
    @classmethod
    def _known_architecture(cls, value: Any) -> SAESettings:
        return build(value, "architecture", {name: sae.Config for name, sae in ARCHITECTURES.items()})

    @field_validator("objective", mode="before")
    @classmethod
    def _terms_carry_their_name(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        empty_is_defaults = {name: {} if knobs is None else knobs for name, knobs in value.items()}
        return {n: {**knobs, "term": n} if isinstance(knobs, dict) else knobs for n, knobs in empty_is_defaults.items()}

    @model_validator(mode="after")
    def _terms_fit_the_architecture(self) -> "Variant":
        check_terms(self.objective, self.sae)
        return self


class EvaluationSettings(Settings):
    """Scores on the held-out split, from the store alone."""

    max_rows: int | None = Field(default=None, gt=0)
    """Rows to score (count, from the start of the split). null: the whole split."""
    batch_size: int = Field(default=4096, gt=0)
    """Rows per pass (count)."""
    example_latents: int = Field(default=6, ge=0)
    """Latents per variant whose top-activating tokens are kept (count)."""
    examples_per_latent: int = Field(default=6, gt=0)
    """Top-activating tokens kept per latent (count)."""
    context_tokens: int = Field(default=12, ge=0)
    """Tokens shown on either side of an example (count)."""


class ReportSettings(Settings):
    """The page."""

    title: str | None = None
    """Heading; null: the run's name."""


Split = Literal["train", "heldout"]
