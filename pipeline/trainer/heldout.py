"""The held-out split during training: what the objective, R2 and L0 are on rows that are not learnt from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from strata_sae.pipeline.reading.feed import Rows
from strata_sae.pipeline.trainer.trainee import Trainee


@dataclass
class _Sums:
    """Sums over rows, in float64."""

    loss: float = 0.0
    error: float = 0.0
    active: float = 0.0


def measure(trainees: Sequence[Trainee], batches: Iterable[Rows]) -> list[dict[str, float]]:
    """`heldout/loss`, `heldout/r2` and `heldout/l0` of each trainee, from one read of the rows.

    The loss is the mean over batches, weighted by their rows, of the objective with every schedule at its end: numbers
    of different steps can then be compared. Latents are selected as in training, with the last k. Nothing that
    training depends on is changed: what the terms remember is put back.
    """
    sums = [_Sums() for _ in trainees]
    n_rows, squares, total_M = 0, 0.0, torch.zeros(())
    for rows in batches:
        target_BM = rows.target.double()
        n_rows += len(target_BM)
        squares += float(target_BM.square().sum())
        total_M = total_M.to(target_BM) + target_BM.sum(0)
        for trainee, of_one in zip(trainees, sums, strict=True):
            _add(of_one, trainee, rows)
    spread = squares - float(total_M.square().sum()) / n_rows
    return [
        {
            "heldout/loss": of_one.loss / n_rows,
            "heldout/r2": 1.0 - of_one.error / spread if spread > 0 else float("nan"),
            "heldout/l0": of_one.active / n_rows,
        }
        for of_one in sums
    ]


def _add(sums: _Sums, trainee: Trainee, rows: Rows) -> None:
    """Count one batch of one trainee."""
    objective = trainee.objective
    remembered: dict[str, Tensor] = {name: tensor.clone() for name, tensor in objective.state().items()}
    encoding = trainee.sae.encode(rows.x_BM, fraction_done=1.0, workspace=trainee.workspace)
    result = objective.forward_backward(
        rows.x_BM, trainee.dead_clock.dead(), 1.0, encoding=encoding, target_BM=rows.target_BM
    )
    objective.load_state(remembered)
    sums.loss += float(result.loss) * len(rows.x_BM)
    sums.error += float((rows.target - result.xhat_BM).double().square().sum())
    sums.active += result.codes.n_active()
