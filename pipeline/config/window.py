"""How many rows training mixes: one rule for what `plan` announces and what `train` serves."""

from strata_sae.pipeline.config.training import TrainingSettings


def window_rows(training: TrainingSettings, row_bytes: int, batch_size: int) -> int:
    """`training.window_rows`, or as many as two buffers of `training.window_bytes` together hold; a batch at least.

    row_bytes: of all sites that are read together, as they are stored.
    """
    return min(training.window_rows, max(training.window_bytes // (2 * row_bytes), batch_size))
