"""What a worker of Ray runs. Pickled by value: nothing of Strata is needed until versions have been compared.

Only Python's own library may be imported outside of functions.
"""

import importlib.metadata
import os
import platform
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_COMPARED = ("strata-sae", "torch", "numpy")
_COMPARED_WHERE_BOTH = ("transformers",)
"""Training goes without it."""
_CARRIED = ("STRATA_", "HF_")
_CARRIED_BY_NAME = ("OMP_WAIT_POLICY",)
_OF_ONE_PROCESS = ("STRATA_SHARE", "STRATA_ENGINE_RUN")


class Order(NamedTuple):
    """What the command hands to each of its workers."""

    work: bytes
    """A pickled function and its argument."""
    folder: str
    """Where the command runs; relative paths begin there."""
    proofs: list[str]
    """Files that hold the name of the run, where this node sees the command's folders."""
    run: str
    versions: dict[str, str]
    environment: dict[str, str]
    n_threads: int
    n_gpus: int
    log_level: int


class Started(NamedTuple):
    """The first answer of a worker."""

    node: str
    process: int


class Ended(NamedTuple):
    """The last answer of a worker. One that was refused gives no other."""

    why: str | None
    """None: it ended well."""
    died: bool = False
    """Whether it may be started again."""


def versions() -> dict[str, str]:
    """What has to be equal on all nodes, without what says for which machine it was built."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in (*_COMPARED, *_COMPARED_WHERE_BOTH):
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def carried_environment() -> dict[str, str]:
    """The variables of this process that its workers need: where data and caches are, and how threads wait."""
    everything = dict(os.environ)
    return {
        name: value
        for name, value in everything.items()
        if (name.startswith(_CARRIED) or name in _CARRIED_BY_NAME) and name not in _OF_ONE_PROCESS
    }


def refusal(order: Order) -> str | None:
    """Why this node cannot work for the command; None if it can."""
    here = versions()
    for name, there in order.versions.items():
        if name in _COMPARED_WHERE_BOTH and name not in here:
            continue
        if here.get(name) != there:
            found = here.get(name, "not installed")
            return f"{name} is {found} here, and {there} where the command runs; install the same version on both"
    seen = [order.folder, *order.proofs]
    for path, holds in zip(seen, [None, *[order.run] * len(order.proofs)], strict=True):
        if not _is_there(Path(path), holds):
            folder = Path(path) if holds is None else Path(path).parent
            return (
                f"does not see the folder {folder} of the command: share it with all nodes under this path, or run the "
                "command in one that is shared (store.path or STRATA_DATA: the folder of stores)"
            )
    return None


def _is_there(path: Path, holds: str | None) -> bool:
    try:
        os.listdir(path.parent)  # a network file system looks anew
        return path.is_dir() if holds is None else holds in path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False


def serve(order: Order) -> Iterator[Started | Ended]:
    """Work on a share. Yields: who does, and how it ended."""
    node = socket.gethostname()
    if why := refusal(order):
        yield Ended(f"node {node}: {why}")
        return
    yield Started(node, os.getpid())
    os.chdir(order.folder)
    for name, value in order.environment.items():
        os.environ[name] = value
    if order.n_gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # else a worker without one would use the first of the node
    yield _worked(order)


def _worked(order: Order) -> Ended:
    import logging
    import signal

    import ray.cloudpickle
    import torch

    from strata_sae.pipeline import stopping
    from strata_sae.pipeline.engines.restarts import reason_of
    from strata_sae.pipeline.errors import StoppedError

    logging.basicConfig(format="%(message)s")
    logging.getLogger("strata_sae").setLevel(order.log_level)
    torch.set_num_threads(order.n_threads)
    try:
        stopping.listen()
        signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))  # what Ray sends where a task is cancelled
        work, share = ray.cloudpickle.loads(order.work)
        work(share)
    except StoppedError:
        return Ended("was asked to end (SIGTERM)", died=True)
    except Exception as error:
        return Ended(reason_of(error))
    return Ended(None)
