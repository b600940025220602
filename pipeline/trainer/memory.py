"""How much memory a group will take, told before it takes it."""

from pipeline.config.training import TrainingSettings
from pipeline.trainer.groups import Group

COPIES = 4
"""Parameters, gradients, and Adam's two memories."""
FLOAT_BYTES = 4


def estimate_bytes(group: Group, training: TrainingSettings, *, d_model: int, row_bytes: int, n_rows: int) -> int:
    """Bytes of a group's parameters and optimiser, the pre-activations they share, and the two window buffers."""
    widths = [job.variant.sae.d_sae for job in group.jobs]
    parameters = sum(2 * d_sae * d_model + d_sae + d_model for d_sae in widths)
    pre_activations = sum(group.batch_size * d_sae for d_sae in set(widths))
    window = min(2 * min(training.window_rows, n_rows) * row_bytes, training.window_bytes)
    return (COPIES * parameters + pre_activations) * FLOAT_BYTES + window
