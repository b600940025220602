"""What a group will take of memory and disk, told before it takes it."""

from math import prod

from strata_sae.pipeline.config.training import TrainingSettings
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.trainer.checkpoint import KEPT
from strata_sae.pipeline.trainer.groups import Group

IN_MEMORY = 4
"""Copies of the parameters: themselves, gradients, and Adam's two memories."""
IN_CHECKPOINT = 3
"""Copies of the parameters: themselves and Adam's two memories."""
FLOAT_BYTES = 4


def memory_bytes(
    group: Group, training: TrainingSettings, *, d_out: int, row_bytes: int, n_rows: int, d_in: int | None = None
) -> int:
    """Bytes of a group's parameters and optimiser, the pre-activations they share, and the two window buffers.

    d_out, d_in: widths of what is written and, where that is another, read. row_bytes: of all sites together.
    """
    pre_activations = sum(group.batch_size * d_sae for d_sae in {job.variant.sae.d_sae for job in group.jobs})
    window = min(2 * min(training.window_rows, n_rows) * row_bytes, training.window_bytes)
    return (IN_MEMORY * _n_parameters(group, d_out, d_in) + pre_activations) * FLOAT_BYTES + window


def checkpoint_bytes(group: Group, *, d_out: int, d_in: int | None = None) -> int:
    """Most bytes that a group's checkpoints take while it trains: those that are kept and the one being written."""
    training = group.jobs[0].training
    n_checkpoints = min(KEPT + 1, -(-training.n_steps // training.checkpoint_every_steps))
    return n_checkpoints * IN_CHECKPOINT * weights_bytes(group, d_out=d_out, d_in=d_in)


def weights_bytes(group: Group, *, d_out: int, d_in: int | None = None) -> int:
    """Bytes of a group's final weights, which stay."""
    return _n_parameters(group, d_out, d_in) * FLOAT_BYTES


def _n_parameters(group: Group, d_out: int, d_in: int | None) -> int:
    settings = [job.variant.sae for job in group.jobs]
    shapes = [ARCHITECTURES[sae.architecture].shapes(sae, d_out, d_in).values() for sae in settings]
    return sum(prod(shape) for of_one in shapes for shape in of_one)
