"""How SAEs are trained, judged and shown."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from strata_sae.pipeline.config.judging import AbsorptionSettings, ProbingSettings, WithModelSettings
from strata_sae.pipeline.kernels.selection import BREAK_EVEN_DENSITY
from strata_sae.pipeline.kernels.tiles import EncoderName
from strata_sae.pipeline.settings import DeviceName, Settings

InputScale = Literal["statistics", "none", "per_document"]
"""How rows are scaled for training."""


class FilterSettings(Settings):
    """Rows left out when the store is read; nothing is thrown away at extraction."""

    drop_bos: bool = True
    """Leave out BOS tokens: their norm is often a hundred times that of other rows."""
    drop_special: bool = True
    """Leave out the other special tokens (EOS, padding, role markers)."""
    drop_template: bool = False
    """Leave out the tokens a chat template adds around the messages."""
    max_norm_multiple: float | None = Field(default=None, gt=1.0)
    """Leave out rows whose norm exceeds this multiple of the median norm. null: no limit."""


MAX_WARMUP_STEPS, WARMUP_SHARE = 1000, 0.05
"""`warmup_steps: null`. SAEBench's 1,000 steps are 0.4 % of its 244,140; short runs need a share, or never get warm."""


class PlateauSettings(Settings):
    """When `decay: plateau` lowers the rate. The rule is that of PyTorch's ReduceLROnPlateau, mode min, no cooldown."""

    loss: Literal["training", "heldout"] = "training"
    """What must fall: the mean training loss of `every_steps` updates, or the loss that `heldout` measures."""
    every_steps: int = Field(default=1000, gt=0)
    """Updates between two looks at the training loss (count); the held-out one is looked at whenever it is measured."""
    factor: float = Field(default=0.1, gt=0.0, lt=1.0)
    """What the rate is multiplied by. Default: PyTorch's; seed 002: 0.3."""
    patience: int = Field(default=10, ge=0)
    """Looks without improvement that are let pass (count); the next one lowers the rate. Default: PyTorch's."""
    threshold: float = Field(default=1e-4, ge=0.0, lt=1.0)
    """Share of the best loss by which a loss must be lower to count as an improvement. Default: PyTorch's."""


class HeldoutSettings(Settings):
    """A curve of the held-out split during training. Measuring it changes no bit of what is trained."""

    every_steps: int = Field(default=500, gt=0)
    """Updates between two measurements (count); the last update is followed by one in any case."""
    max_rows: int | None = Field(default=None, gt=0)
    """Rows to measure it on (count, from the start of the split). null: the whole split, each time."""
    patience: int | None = Field(default=None, gt=0)
    """Measurements in a row without a new lowest loss after which a variant stops (count); what is kept are the weights
    at the lowest loss. null: training runs to its end, and its last weights are kept. HypotheSAEs: 5 of an epoch each,
    but it keeps the last weights."""


class UpdateSettings(Settings):
    """How updates are made: what one variant may do otherwise than the others (its own `training` group)."""

    batch_size: int = Field(default=2048, gt=0)
    """Rows per step (count). Variants of one batch size, seed and input scale share a pass over the store."""
    input_scale: InputScale = "statistics"
    """What training sees of a row x. `statistics`: x times one number, so that E||x||^2 = 1 (dictionary_learning).
    `none`: x itself (seeds 000, 001 and 003). `per_document`: sqrt(d) (x - mean) / deviation, both of its document's
    numbers (seed 002). Weights of terms depend on it: docs/input_scale.md converts them, and says what is scored."""
    learning_rate: float | Literal["auto"] = Field(default=3e-4)
    """Adam step size; auto: 2e-4 / sqrt(d_sae / 2^14), as dictionary_learning's TopK family. Default: SAEBench."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """Steps of linear warm-up, (t + 1) / warmup. null: 5 % of the run, at most 1,000 (SAEBench's number)."""
    decay_start: float = Field(default=0.8, ge=0.0, le=1.0)
    """Share of the run (0 to 1) from which the learning rate falls. Default: SAEBench. 1: never."""
    decay: Literal["linear", "cosine", "plateau"] = "linear"
    """Shape of that fall: straight, half a cosine, or by `plateau.factor` whenever a loss no longer falls, wherever in
    the run that is (`decay_start` is not used then)."""
    decay_to: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the learning rate (0 to 1) at which the fall ends; FAST: 0.1. A plateau falls no lower."""
    plateau: PlateauSettings | None = None
    """When `decay: plateau` lowers the rate. null: its defaults."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Every update first multiplies all parameters by 1 - rate * weight_decay (AdamW, Loshchilov & Hutter 2019)."""
    compat: Literal["dictionary_learning"] | None = None
    """`dictionary_learning`: warm-up is t / warmup, so the first update changes Adam's state and no parameter."""
    order: Literal["project_clip", "clip_project"] = "project_clip"
    """Whether a `unit` decoder's gradient is projected before the clip or after it (seed 001)."""
    projection_epsilon: float = Field(default=1e-6, ge=0.0)
    """Added to a row's norm in that projection. Default: dictionary_learning's TopK family; its ReLU and Gated: 0."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Adam's decay of the mean. Default: Adam's; dictionary_learning's Gated and JumpReLU: 0."""
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    """Adam's decay of the square. Default: Adam's."""
    epsilon: float = Field(default=1e-8, gt=0.0)
    """Adam's epsilon. Default: Adam's; Gao et al. 2024: 6.25e-10."""
    clip_norm: float | None = Field(default=1.0, gt=0.0)
    """Largest norm of all gradients together. null: no clipping. Default: dictionary_learning's TopK family."""
    dead_after_rows: int = Field(default=10_000_000, gt=0)
    """A latent that has not been active for this many rows is dead. Default: dictionary_learning."""
    threshold_from: Literal["calibration", "running_mean"] = "calibration"
    """Inference threshold: the one that gives the wanted l0 on `calibration_rows`, or the running mean of training."""
    threshold_mean: Literal["corrected", "first_value", "from_zero"] = "corrected"
    """Where the running mean of the smallest activation starts: corrected for its start, at the first value
    (dictionary_learning), or at 0 (SAELens, HypotheSAEs)."""
    threshold_beta: float = Field(default=0.999, ge=0.0, lt=1.0)
    """Decay of that running mean. Default: dictionary_learning; SAELens and HypotheSAEs: 0.99."""
    threshold_start_step: int = Field(default=0, ge=0)
    """Updates made before it begins (count); dictionary_learning: 1001."""

    @field_validator("learning_rate")
    @classmethod
    def _positive(cls, rate: float | str) -> float | str:
        if not isinstance(rate, str) and not rate > 0:
            raise ValueError(f"must be greater than 0 or auto, got {rate}")
        return rate


class TrainingSettings(UpdateSettings):
    """The training loop, which all variants share."""

    n_steps: int | None = Field(default=None, gt=0)
    """Updates per variant (count). Give this or `epochs`."""
    epochs: float | None = Field(default=None, gt=0.0, le=1e6)
    """The same in passes over the train split, as it is after `filters`: n_steps = epochs * rows / batch_size, rounded
    down, at least 1. Give this or `n_steps`."""
    heldout: HeldoutSettings | None = None
    """A held-out curve during training, and early stopping. null: neither."""
    keep: list[Annotated[float, Field(ge=0.0, le=1.0)]] = Field(default=[])
    """Shares of the run (0 to 1) at which weights are kept beside the final ones, without the optimiser's memory;
    rounded down to whole steps, 0 being the initial weights. dictionary_learning: [0, .001, .00316, .01, .0316, .1,
    .316]."""
    sites: list[str] | None = None
    """Sites to train on; null: those of `store.sites`."""
    window_rows: int = Field(default=2**20, gt=0)
    """Rows mixed together in memory (count); what matters is how many documents it spans."""
    window_bytes: int = Field(default=2 * 2**30, gt=0)
    """Largest size of the two window buffers together; caps `window_rows` (bytes)."""
    memory_bytes: int | None = Field(default=None, gt=0)
    """Memory of one pass over the store (bytes); variants beyond it get other passes. null: what is free at first."""
    filters: FilterSettings = FilterSettings()
    """Rows left out, in training and evaluation alike."""
    encoder: EncoderName = "float32"
    """How TopK finds the k largest: `float32`, or `certified_bfloat16`: bfloat16 products with a bound on their error,
    the candidates then in float32. Faster where bfloat16 is fast; the latents differ only in near ties of float32."""
    break_even_density: float = Field(default=BREAK_EVEN_DENSITY, gt=0.0, le=1.0)
    """Share of active latents above which codes are multiplied as full matrices; `train --dry-run` measures this
    machine's. It decides how sums are rounded, so a run cannot be resumed with another value."""
    calibration_rows: int = Field(default=65536, gt=0)
    """Rows used after training to set the threshold that gives the wanted l0 (count)."""
    log_every_steps: int = Field(default=25, gt=0)
    """Steps between lines of curves.jsonl (count)."""
    checkpoint_every_steps: int = Field(default=500, gt=0)
    """Steps between resumable checkpoints (count)."""
    shared_windows: str | None = None
    """A folder in memory (/dev/shm/strata) in which training processes of this machine share windows. null: none."""
    device: DeviceName = "auto"
    """`auto` (cuda where there is one), `cpu`, `cuda`, `cuda:1`."""

    @model_validator(mode="after")
    def _has_one_length(self) -> "TrainingSettings":
        if (self.n_steps is None) == (self.epochs is None):
            found = "neither; add one" if self.n_steps is None else "both; set one to null"
            raise ValueError(f"expected exactly one of n_steps and epochs, got {found}")
        return self


class ResolvedTraining(TrainingSettings):
    """The training of one SAE: every number that depends on others, on the variant or on the rows is known."""

    n_steps: int = Field(gt=0)
    warmup_steps: int = Field(ge=0)
    learning_rate: float = Field(gt=0)


def resolved(settings: TrainingSettings, learning_rate: float, n_rows: int | None) -> ResolvedTraining:
    """The settings with every number known.

    learning_rate: what `auto` stands for. n_rows: those of an epoch, which `epochs` counts.
    """
    n_steps = settings.n_steps
    if n_steps is None:
        assert n_rows is not None, "epochs are counted in rows"
        assert settings.epochs is not None
        n_steps = max(1, int(settings.epochs * n_rows / settings.batch_size))
    short = int(min(MAX_WARMUP_STEPS, WARMUP_SHARE * n_steps))
    # A warm-up that nobody asked for must not collide with a fall that somebody did ask for.
    short = short if settings.decay == "plateau" else int(min(short, settings.decay_start * n_steps))
    known = {
        "n_steps": n_steps,
        "epochs": None,
        "warmup_steps": short if settings.warmup_steps is None else settings.warmup_steps,
        "learning_rate": learning_rate if settings.learning_rate == "auto" else settings.learning_rate,
        "plateau": settings.plateau or (PlateauSettings() if settings.decay == "plateau" else None),
    }
    return ResolvedTraining(**{name: getattr(settings, name) for name in TrainingSettings.model_fields} | known)


def window_rows(training: TrainingSettings, row_bytes: int, batch_size: int) -> int:
    """`training.window_rows`, or as many as two buffers of `training.window_bytes` together hold; a batch at least.

    row_bytes: of all sites that are read together, as they are stored.
    """
    # Two buffers: batches are served from one while the other is filled.
    return min(training.window_rows, max(training.window_bytes // (2 * row_bytes), batch_size))


def check_schedule(settings: ResolvedTraining) -> None:
    """Raises: ValueError if the numbers of a training section contradict each other."""
    decay_start = 1.0 if settings.decay == "plateau" else settings.decay_start
    decay_step = decay_start * settings.n_steps
    if settings.warmup_steps > decay_step:
        raise ValueError(
            f"warmup_steps ({settings.warmup_steps}) must end before the learning rate begins to fall, at step "
            f"{decay_step:.0f} (decay_start {decay_start:g} of n_steps {settings.n_steps}); "
            "lower warmup_steps, set it to null, or raise n_steps"
        )
    if settings.threshold_from == "running_mean" and settings.threshold_start_step >= settings.n_steps:
        raise ValueError(
            f"threshold_start_step ({settings.threshold_start_step}) must lie before n_steps ({settings.n_steps}) "
            "where threshold_from is running_mean, or the threshold is never set; lower it, or use calibration"
        )
    on_heldout = settings.decay == "plateau" and settings.plateau is not None and settings.plateau.loss == "heldout"
    if on_heldout and settings.heldout is None:
        raise ValueError("plateau.loss: heldout needs training.heldout, which measures it; add it, or use training")


class EvaluationSettings(Settings):
    """Scores on the held-out split, from the store alone."""

    max_rows: int | None = Field(default=None, gt=0)
    """Rows to score (count, from the start of the split). null: the whole split."""
    batch_size: int = Field(default=4096, gt=0)
    """Rows per pass (count)."""
    target_l0: float | None = Field(default=None, gt=0.0)
    """Active latents per row at which sweeps are to be compared: table, page and results.csv mark, of the variants of
    each kind, the SAE nearest to it, the lowest FVU among equals (seed 000). null: none is marked."""
    example_latents: int = Field(default=6, ge=0)
    """Latents per variant whose top-activating tokens are kept (count)."""
    examples_per_latent: int = Field(default=6, gt=0)
    """Top-activating tokens kept per latent (count)."""
    context_tokens: int = Field(default=12, ge=0)
    """Tokens shown on either side of an example (count)."""
    with_model: WithModelSettings | None = None
    """Losses of the language model with the reconstruction spliced in. null: only where --with-model asks for them."""
    probing: ProbingSettings | None = None
    """Probes of labelled rows. null: none."""
    absorption: AbsorptionSettings | None = None
    """First-letter absorption. null: none."""


class ReportSettings(Settings):
    """The report's page."""

    title: str | None = None
    """Heading; null: the run's name."""
