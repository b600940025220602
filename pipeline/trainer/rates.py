"""The learning rate of every update."""

import math

from strata_sae.pipeline.config.training import TrainingSettings


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Adam's step size at update `step` (0-based): linear warm-up, flat, then a fall that reaches 0 after the last.

    Source: dictionary_learning's get_lr_schedule, whose warm-up is t / warmup (`compat`); SAELens' is (t + 1) / warmup.
    """
    assert isinstance(settings.learning_rate, float)
    rate = settings.learning_rate
    if step < settings.warmup_steps:
        rate *= (step + (settings.compat != "dictionary_learning")) / settings.warmup_steps
    decay_step = settings.decay_start * settings.n_steps
    if step > decay_step:
        left = (settings.n_steps - step) / (settings.n_steps - decay_step)
        rate *= left if settings.decay == "linear" else (1 - math.cos(math.pi * left)) / 2
    return rate
