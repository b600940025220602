"""What ranks of a torch.distributed group hand each other while they read a store."""

from collections.abc import Callable

import numpy as np
import torch
from torch import distributed


def gather_bytes(group: distributed.ProcessGroup) -> Callable[[np.ndarray], None]:
    """Fills the rows [n_ranks, n] of an array with what each rank has in its own; see `stores.Share`.

    `group`: a gloo group that nothing else uses, because windows are read beside the steps of training.
    """
    rank = distributed.get_rank(group)

    def exchange(parts: np.ndarray) -> None:
        tensor = torch.from_numpy(parts)
        distributed.all_gather(list(tensor), tensor[rank].clone(), group)

    return exchange
