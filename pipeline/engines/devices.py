"""Which GPU a worker of this machine has."""

import logging

import torch

from strata_sae.stores.files import environment

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus(n_workers: int, device: str) -> list[str | None]:
    """What CUDA_VISIBLE_DEVICES is to be in each of the workers; None: as it is here.

    The GPUs that this process may use are dealt out in turn. CUDA is not initialised by looking for them.

    device: as a config names it. Where that is one of several GPUs, every worker uses that one.
    """
    unchanged: list[str | None] = [None] * n_workers
    n_gpus = 0 if device == "cpu" else torch.cuda.device_count()
    if n_gpus == 0:
        return unchanged
    if ":" in device:
        log.warning("%d workers share %s, which the config names; with cuda each has one of its own", n_workers, device)
        return unchanged
    if n_workers > n_gpus:
        log.warning("%d workers share %d GPUs: each GPU holds the data of several workers", n_workers, n_gpus)
    listed = environment.text(VISIBLE)
    names = [str(number) for number in range(n_gpus)] if listed is None else listed.split(",")[:n_gpus]
    return [names[worker % n_gpus].strip() for worker in range(n_workers)]
