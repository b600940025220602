"""Ranks that are processes of torchrun: NCCL between GPUs, gloo between processors."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.sharding.launch import launch
from strata_sae.pipeline.sharding.ranks import ONE, Ranks, Reduction

PATIENCE = timedelta(days=1)
"""How long a rank waits for the others: one of them may be writing terabytes. torchrun ends all when one has died."""
OPERATIONS = {"sum": dist.ReduceOp.SUM, "smallest": dist.ReduceOp.MIN}


class Processes(Ranks):
    """Ranks of torch.distributed's default group."""

    def _reduce(self, tensor: Tensor, how: Reduction) -> None:
        with _telling(self.rank):
            dist.all_reduce(tensor, OPERATIONS[how])

    def _gather(self, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(self.n)]
        with _telling(self.rank):
            dist.all_gather(parts, tensor)
        return torch.stack(parts)


@contextmanager
def _telling(rank: int) -> Iterator[None]:
    """Turns what a library says of a rank that has ended into a line. Raises: CheckpointError."""
    try:
        yield
    except RuntimeError as error:
        words = (str(error).strip().splitlines() or ["no reason is known"])[0]
        raise CheckpointError(
            f"rank {rank}: the ranks have lost each other ({words[:200]}); the one that ended first says why, and the "
            "same command goes on from the last checkpoint"
        ) from error


@contextmanager
def ranks_here(device: torch.device) -> Iterator[Ranks]:
    """The ranks that torchrun has started, this process being one of them; ONE without it. They part at the end.

    Raises: ConfigError where there are more ranks on this machine than GPUs.
    """
    own = launch()
    if own.n == 1:
        yield ONE
        return
    if device.type == "cuda":
        if device.index is not None or own.n_here > torch.cuda.device_count():
            raise ConfigError(
                f"training.device: {device} for {own.n_here} ranks of torchrun on a machine with "
                f"{torch.cuda.device_count()} GPUs, but each rank takes one of its own; set it to cuda and start "
                "at most as many (--nproc-per-node), or set it to cpu"
            )
        torch.cuda.set_device(own.number_here)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(own.rank, own.n, device, own.n_here)
    finally:
        dist.destroy_process_group()
